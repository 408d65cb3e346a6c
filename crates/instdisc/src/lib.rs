//! Unsupervised feature learning via non-parametric instance discrimination (CVPR 2018)
