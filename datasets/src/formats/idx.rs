//! IDX files, the form of MNIST and Fashion-MNIST.
//!
//! Four bytes (0, 0, element type, number of dimensions), the dimensions as big-endian 32-bit numbers,
//! then the elements, the last dimension varying fastest. Only the element type 8 (unsigned byte) occurs
//! in picture sets and only it is read. Files may be compressed with gzip; that is seen from their first
//! bytes.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use vision_image::Image;

use crate::memory::check_labels;
use crate::{Dataset, Error, Fingerprint, Labelled, LabelledSet, Result};

/// More dimensions than any set has; bounds what a damaged header can ask for.
const MAX_DIMS: u8 = 4;

/// The content of one IDX file of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdxArray {
    /// The dimensions, outermost first.
    pub dims: Vec<u32>,
    /// The elements, the last dimension varying fastest; as many as the product of `dims`.
    pub data: Vec<u8>,
}

impl IdxArray {
    /// Reads the file at `path`, plain or gzip.
    ///
    /// # Errors
    /// If the file cannot be read, is no IDX file of bytes, or is shorter or longer than its header says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| Error::io(path, source))?;
        Self::read(BufReader::new(file), path)
    }

    /// Reads from memory or any other source, plain or gzip; `path` is only used in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn read(mut source: impl std::io::BufRead, path: &Path) -> Result<Self> {
        let start = source.fill_buf().map_err(|source| Error::io(path, source))?;
        if start.starts_with(&[0x1f, 0x8b]) {
            parse(MultiGzDecoder::new(source), path)
        } else {
            parse(source, path)
        }
    }
}

fn parse(mut source: impl Read, path: &Path) -> Result<IdxArray> {
    let format = |offset: u64, problem: String| Error::Format { path: path.to_owned(), offset, problem };
    let mut read_exact = |buffer: &mut [u8], offset: u64, what: &str| {
        source.read_exact(buffer).map_err(|error| format(offset, format!("cannot read {what}: {error}")))
    };
    let mut magic = [0u8; 4];
    read_exact(&mut magic, 0, "the 4 bytes of the header")?;
    let [zero_a, zero_b, kind, count] = magic;
    if (zero_a, zero_b) != (0, 0) {
        return Err(format(
            0,
            format!("starts with {zero_a:#04x} {zero_b:#04x}, an IDX file starts with 0 0"),
        ));
    }
    if kind != 8 {
        return Err(format(2, format!("element type {kind:#04x}, only 0x08 (unsigned byte) is read")));
    }
    if count == 0 || count > MAX_DIMS {
        return Err(format(3, format!("{count} dimensions, expected 1 to {MAX_DIMS}")));
    }
    let mut dims = Vec::with_capacity(usize::from(count));
    for dim in 0..u64::from(count) {
        let mut bytes = [0u8; 4];
        read_exact(&mut bytes, 4 + 4 * dim, "a dimension")?;
        dims.push(u32::from_be_bytes(bytes));
    }
    let header = 4 + 4 * dims.len() as u64;
    let length = dims
        .iter()
        .try_fold(1u64, |product, &dim| product.checked_mul(u64::from(dim)))
        .filter(|&length| usize::try_from(length).is_ok() && length < u64::MAX - header)
        .ok_or_else(|| format(4, format!("dimensions {dims:?} do not fit into memory")))?;
    // The buffer grows with what is really there, so a damaged header cannot ask for much memory.
    let mut data = Vec::new();
    source
        .take(length + 1)
        .read_to_end(&mut data)
        .map_err(|error| format(header, format!("cannot read the elements: {error}")))?;
    let got = data.len() as u64;
    if got < length {
        return Err(format(header + got, format!("the file ends after {got} of {length} elements {dims:?}")));
    }
    if got > length {
        return Err(format(header + length, format!("the file goes on after {length} elements {dims:?}")));
    }
    Ok(IdxArray { dims, data })
}

/// A file of grey pictures and a file of labels.
#[derive(Debug, Clone)]
pub struct IdxDataset {
    name: String,
    width: u32,
    height: u32,
    pixels: Vec<u8>,
    labels: Vec<i64>,
    class_names: Vec<String>,
    fingerprint: Fingerprint,
}

impl IdxDataset {
    /// Reads pictures (three dimensions: number, height, width) and labels (one dimension). The set is
    /// named after the picture file and its classes `0`, `1`, … until told otherwise.
    ///
    /// # Errors
    /// If a file cannot be read as [`IdxArray::open`] does, has other dimensions, or the numbers of
    /// pictures and labels differ.
    pub fn open(images_path: impl AsRef<Path>, labels_path: impl AsRef<Path>) -> Result<Self> {
        let (images_path, labels_path) = (images_path.as_ref(), labels_path.as_ref());
        let images = IdxArray::open(images_path)?;
        let labels = IdxArray::open(labels_path)?;
        let name = images_path.file_name().unwrap_or(images_path.as_os_str()).to_string_lossy().into_owned();
        Self::from_arrays(&name, images, images_path, &labels, labels_path)
    }

    /// The same from arrays in memory; the paths are only used in messages.
    ///
    /// # Errors
    /// If the arrays do not have the dimensions of pictures and labels, or their numbers differ.
    pub fn from_arrays(
        name: &str,
        images: IdxArray,
        images_path: &Path,
        labels: &IdxArray,
        labels_path: &Path,
    ) -> Result<Self> {
        let dims =
            |path: &Path, problem: String| Error::Format { path: PathBuf::from(path), offset: 3, problem };
        let &[count, height, width] = images.dims.as_slice() else {
            let problem = format!("dimensions {:?}, pictures have 3 (number, height, width)", images.dims);
            return Err(dims(images_path, problem));
        };
        if count > 0 && (height == 0 || width == 0) {
            return Err(dims(images_path, format!("pictures of {width}x{height} pixels")));
        }
        let &[label_count] = labels.dims.as_slice() else {
            return Err(dims(labels_path, format!("dimensions {:?}, labels have 1", labels.dims)));
        };
        if label_count != count {
            let problem = format!("{label_count} labels, but {} has {count} pictures", images_path.display());
            return Err(dims(labels_path, problem));
        }
        let labels: Vec<i64> = labels.data.iter().map(|&label| i64::from(label)).collect();
        let classes = labels.iter().max().map_or(0, |&max| max + 1);
        let fingerprint = Fingerprint::builder(name)
            .number(u64::from(width))
            .number(u64::from(height))
            .labels(&labels)
            .bytes(&images.data)
            .finish(labels.len());
        Ok(Self {
            name: name.to_owned(),
            width,
            height,
            pixels: images.data,
            labels,
            class_names: (0..classes).map(|class| class.to_string()).collect(),
            fingerprint,
        })
    }

    /// Names the set and its classes. The name becomes part of the fingerprint.
    ///
    /// # Errors
    /// If a label has no class name.
    pub fn named(mut self, name: &str, class_names: &[&str]) -> Result<Self> {
        check_labels(name, &self.labels, class_names.len())?;
        name.clone_into(&mut self.name);
        self.fingerprint = Fingerprint::builder(name)
            .number(u64::from(self.width))
            .number(u64::from(self.height))
            .labels(&self.labels)
            .bytes(&self.pixels)
            .finish(self.labels.len());
        self.class_names = class_names.iter().map(|&class| class.to_owned()).collect();
        Ok(self)
    }

    /// Width and height of every picture, in pixels.
    pub fn size(&self) -> [u32; 2] {
        [self.width, self.height]
    }
}

/// The names of the ten classes of Fashion-MNIST, by label.
pub const FASHION_MNIST_CLASSES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

impl Dataset for IdxDataset {
    type Sample = Labelled;

    fn len(&self) -> usize {
        self.labels.len()
    }

    fn get(&self, index: usize) -> Result<Labelled> {
        let size = self.width as usize * self.height as usize;
        let pixels = index.checked_mul(size).and_then(|from| self.pixels.get(from..from.checked_add(size)?));
        match (pixels, self.labels.get(index)) {
            (Some(pixels), Some(&label)) => {
                let image = Image::new(self.width, self.height, 1, pixels.to_vec())?;
                Ok(Labelled { image, label, index, name: self.sample_name(index) })
            }
            _ => Err(Error::Index { set: self.name.clone(), index, len: self.len() }),
        }
    }

    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }

    fn sample_name(&self, index: usize) -> String {
        format!("{}#{index}", self.name)
    }
}

impl LabelledSet for IdxDataset {
    fn labels(&self) -> &[i64] {
        &self.labels
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn name(&self) -> &str {
        &self.name
    }
}
