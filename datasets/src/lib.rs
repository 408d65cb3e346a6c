//! Data sets, transforms, samplers and a deterministic parallel loader, without tensors
