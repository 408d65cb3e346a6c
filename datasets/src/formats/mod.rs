//! Readers for the forms in which labelled picture sets are published.

pub mod cifar;
mod cifar_classes;
pub mod idx;
pub mod image_folder;

pub use cifar::{Cifar, CifarKind};
pub use idx::{IdxArray, IdxDataset};
pub use image_folder::ImageFolder;
