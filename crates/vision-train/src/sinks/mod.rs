//! Where the numbers of a run go: a line-per-number file, TensorBoard, and whoever watches.

mod metrics;
mod progress;
mod tensorboard;

pub use metrics::{MetricLog, Row};
pub use progress::{Count, Progress, Silent, StepInfo, Watch};
pub use tensorboard::{EventWriter, masked_crc};
