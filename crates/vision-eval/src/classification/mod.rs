//! Accuracy of predicted classes.

mod confusion;
mod topk;

pub use confusion::Confusion;
pub use topk::TopK;
