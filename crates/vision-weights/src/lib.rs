//! Read and write model weights: safetensors and PyTorch archives
