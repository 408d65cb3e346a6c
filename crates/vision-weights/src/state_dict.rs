//! Named arrays.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{Array, Error, Result, atomic_write, safetensors_format};

/// Arrays by name, and free text that travels with them. Both are ordered by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateDict {
    /// The arrays.
    pub tensors: BTreeMap<String, Array>,
    /// Free text: the resolved configuration, a model's needs, a fingerprint.
    pub metadata: BTreeMap<String, String>,
}

impl StateDict {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an array; one of the same name is replaced and returned.
    pub fn insert(&mut self, name: impl Into<String>, array: Array) -> Option<Array> {
        self.tensors.insert(name.into(), array)
    }

    /// Adds a line of metadata; one of the same key is replaced and returned.
    pub fn insert_metadata(&mut self, key: impl Into<String>, value: impl Into<String>) -> Option<String> {
        self.metadata.insert(key.into(), value.into())
    }

    /// The array called `name`.
    pub fn get(&self, name: &str) -> Option<&Array> {
        self.tensors.get(name)
    }

    /// The array called `name`, taken out.
    pub fn remove(&mut self, name: &str) -> Option<Array> {
        self.tensors.remove(name)
    }

    /// The array called `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none.
    pub fn require(&self, name: &str) -> Result<&Array> {
        self.get(name).ok_or_else(|| Error::NotFound { path: "<memory>".into(), name: name.to_owned() })
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Names and arrays, in order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.tensors.iter().map(|(name, array)| (name.as_str(), array))
    }

    /// Number of arrays.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no array.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The shape of every array, as [`LoadReport::compare`](crate::LoadReport::compare) wants them.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.tensors.iter().map(|(name, array)| (name.clone(), array.shape.clone())).collect()
    }

    /// Adds all arrays and metadata of `other`, each name with `prefix` in front.
    ///
    /// # Errors
    /// [`Error::Collision`] when a name is taken already; nothing has been added then.
    pub fn extend_with_prefix(&mut self, prefix: &str, other: Self) -> Result<()> {
        for name in other.tensors.keys() {
            let joined = format!("{prefix}{name}");
            if self.tensors.contains_key(&joined) {
                return Err(Error::Collision { first: joined.clone(), second: name.clone(), name: joined });
            }
        }
        for key in other.metadata.keys() {
            let joined = format!("{prefix}{key}");
            if self.metadata.contains_key(&joined) {
                return Err(Error::Collision { first: joined.clone(), second: key.clone(), name: joined });
            }
        }
        self.tensors.extend(other.tensors.into_iter().map(|(name, a)| (format!("{prefix}{name}"), a)));
        self.metadata.extend(other.metadata.into_iter().map(|(key, v)| (format!("{prefix}{key}"), v)));
        Ok(())
    }

    /// The part whose names start with `prefix`, without it.
    #[must_use]
    pub fn with_prefix(&self, prefix: &str) -> Self {
        let cut = |name: &String| name.strip_prefix(prefix).map(str::to_owned);
        Self {
            tensors: self.tensors.iter().filter_map(|(name, a)| Some((cut(name)?, a.clone()))).collect(),
            metadata: self.metadata.iter().filter_map(|(key, v)| Some((cut(key)?, v.clone()))).collect(),
        }
    }

    /// Writes a safetensors file: to a temporary file beside it, flushed, then renamed, see [`atomic_write`].
    /// The same content gives the same bytes.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written (an earlier one is then untouched), [`Error::Name`] or
    /// [`Error::Length`] when an array's name or size is unsound.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let (header, arrays) = safetensors_format::layout(self)?;
        atomic_write(path, &mut |out| {
            out.write_all(&header)?;
            arrays.iter().try_for_each(|array| out.write_all(&array.data))
        })
    }

    /// The bytes that [`StateDict::save`] writes.
    ///
    /// # Errors
    /// [`Error::Name`] or [`Error::Length`] when an array's name or size is unsound.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let (mut bytes, arrays) = safetensors_format::layout(self)?;
        for array in arrays {
            bytes.extend_from_slice(&array.data);
        }
        Ok(bytes)
    }
}

impl FromIterator<(String, Array)> for StateDict {
    fn from_iter<I: IntoIterator<Item = (String, Array)>>(arrays: I) -> Self {
        Self { tensors: arrays.into_iter().collect(), metadata: BTreeMap::new() }
    }
}
