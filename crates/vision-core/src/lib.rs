//! Differentiable vision operations, layers and backbones on candle tensors
