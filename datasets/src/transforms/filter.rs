//! Names of resize filters in configuration files.

use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use vision_image::Filter;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Name {
    Nearest,
    Bilinear,
    Bicubic,
    Lanczos,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's `with` passes a reference")]
pub(super) fn serialize<S: Serializer>(filter: &Filter, serializer: S) -> Result<S::Ok, S::Error> {
    let name = match filter {
        Filter::Nearest => Name::Nearest,
        Filter::Bilinear => Name::Bilinear,
        Filter::Bicubic => Name::Bicubic,
        Filter::Lanczos => Name::Lanczos,
        other => return Err(S::Error::custom(format!("{other:?} has no name in configuration files"))),
    };
    name.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Filter, D::Error> {
    Ok(match Name::deserialize(deserializer)? {
        Name::Nearest => Filter::Nearest,
        Name::Bilinear => Filter::Bilinear,
        Name::Bicubic => Filter::Bicubic,
        Name::Lanczos => Filter::Lanczos,
    })
}
