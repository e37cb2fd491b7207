import numpy as np
def identity_basis(p,s,e): return np.zeros((0,len(p),3),np.float32),()
