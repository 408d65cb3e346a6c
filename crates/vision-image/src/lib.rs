#![doc = include_str!("../README.md")]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")
)]

mod blur;
mod codec;
pub mod colour;
pub mod draw;
mod error;
mod labels;
mod normalise;
pub mod palette;
mod picture;
mod resample;

pub use blur::gaussian_blur;
pub use codec::{
    Format, MAX_PIXELS, Probe, decode, decode_labels, decode_native, decode_native_limited, encode_indexed,
    encode_jpeg, encode_png, open, open_labels, open_native, probe,
};
pub use error::{Error, Result};
pub use labels::LabelMap;
pub use normalise::normalise;
pub use picture::Image;
pub use resample::{Filter, resize, resize_box, resize_short_side, rotate};
