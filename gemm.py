import torch,time
torch.set_num_threads(1)
from curate.gradients.linear import linear
for n,k,m in ((512,128,4096),(2048,128,4096),(512,128,50304),(512,256,50304),(512,128,352),(2048,128,352),(512,352,128),(512,4096,128),(512,50304,128),(4096,512,128)):
    x=torch.randn(n,k);w=torch.randn(m,k);z=torch.randn(m,n); o=torch.empty(n,m)
    def t(f):
        f(); b=1e9
        for _ in range(5):
            s=time.perf_counter(); f(); b=min(b,time.perf_counter()-s)
        return 2*n*k*m/b/1e9
    print(n,k,m,"mkl %.0f onednn %.0f  out mm %.0f  WT-layout mkl %.0f onednn %.0f"%(t(lambda:torch.nn.functional.linear(x,w)),t(lambda:linear(x,w)),t(lambda:torch.mm(x,w.T,out=o)),t(lambda:torch.nn.functional.linear(x,w.T.contiguous().T)),t(lambda:linear(x,w.T.contiguous().T))))
