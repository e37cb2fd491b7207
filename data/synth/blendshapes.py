import numpy as np
def expression_basis(p): return np.zeros((0,len(p),3),np.float32),()
