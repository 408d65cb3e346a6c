//! The one error type of the crate.

/// What can go wrong when a metric is made, fed or merged.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is out of its range.
    #[error("{name}: {problem}")]
    Argument {
        /// The argument.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Two slices that belong together differ in length.
    #[error("{what}: expected {expected} entries, got {got}")]
    Length {
        /// The slice that is too long or too short.
        what: &'static str,
        /// The length of its partner.
        expected: usize,
        /// Its length.
        got: usize,
    },
    /// A vote needs more neighbours than there are.
    #[error("k is {k}, but {what} has only {got} entries")]
    TooFew {
        /// Neighbours that vote.
        k: usize,
        /// What is too short: the training set or the neighbours of the query.
        what: &'static str,
        /// Its length.
        got: usize,
    },
    /// A similarity is NaN or infinite.
    #[error("the similarity of neighbour {position} (row {row}) is {value}")]
    NotFinite {
        /// Which neighbour of the query.
        position: usize,
        /// Its row.
        row: u32,
        /// Its similarity.
        value: f32,
    },
    /// A neighbour is no row of the training set.
    #[error("neighbour {position} is row {row} of a training set with {rows} rows")]
    Row {
        /// Which neighbour of the query.
        position: usize,
        /// The row it claims to be.
        row: u32,
        /// Number of rows.
        rows: usize,
    },
    /// Neighbours do not come in the promised order: similarity falls, equal ones by rising row.
    #[error("neighbour {position} comes after one that it should precede")]
    Order {
        /// Which neighbour of the query.
        position: usize,
    },
    /// A class is outside the range that the metric was made for.
    #[error("{what} is {class}, but there are {classes} classes")]
    Class {
        /// Whose class: `label` or `prediction`.
        what: &'static str,
        /// The class.
        class: i64,
        /// Number of classes.
        classes: usize,
    },
    /// An annotated or detected object makes no sense.
    #[error("{what} {index} of image {image}: {field} {problem}")]
    Annotation {
        /// The image.
        image: u64,
        /// What it is: `truth` or `detection`.
        what: &'static str,
        /// Its place in the list that was given.
        index: usize,
        /// The field that is wrong.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An image cannot be counted.
    #[error("image {image} {problem}")]
    Image {
        /// The image.
        image: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Two parts of a metric were made with different settings, so their sum means nothing.
    #[error("cannot merge: {what} differ")]
    Merge {
        /// The setting.
        what: &'static str,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Checks the cut-offs of a metric "at k".
pub(crate) fn cutoffs(ks: &[usize]) -> Result<Vec<usize>> {
    let problem = |problem: String| Err(Error::Argument { name: "ks", problem });
    if ks.is_empty() {
        return problem("no cut-off is given".to_owned());
    }
    for (i, k) in ks.iter().enumerate() {
        if *k == 0 {
            return problem("0 best entries never contain anything".to_owned());
        }
        if ks[..i].contains(k) {
            return problem(format!("{k} is given twice"));
        }
    }
    Ok(ks.to_vec())
}
