//! Pictures that are in a training part and in a part for validation or test.
//!
//! A score on pictures that were trained on says nothing. Some published lists overlap all the same:
//! `trainval` of PASCAL VOC contains `val`, and the lists of SBD contain pictures of VOC's `val`.

use std::collections::BTreeSet;

/// The samples that two parts share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The part for training.
    pub train: String,
    /// The part for validation or test.
    pub held_out: String,
    /// The samples that are in both, sorted.
    pub ids: Vec<String>,
}

/// Whether a part of this name is one to train on.
pub fn is_training(part: &str) -> bool {
    part.starts_with("train")
}

/// Which samples are in both parts; `None` if there are none. What is found is also logged as a warning.
///
/// `set` names the set in the log.
pub fn overlap(set: &str, train: (&str, &[String]), held_out: (&str, &[String])) -> Option<Overlap> {
    let held: BTreeSet<&String> = held_out.1.iter().collect();
    let ids: BTreeSet<&String> = train.1.iter().filter(|id| held.contains(id)).collect();
    if ids.is_empty() {
        return None;
    }
    tracing::warn!(
        set,
        train = train.0,
        held_out = held_out.0,
        shared = ids.len(),
        "a part for training contains samples of a part that is held out; scores on it mean little"
    );
    Some(Overlap {
        train: train.0.to_owned(),
        held_out: held_out.0.to_owned(),
        ids: ids.into_iter().cloned().collect(),
    })
}

/// All overlaps between the training parts and the other parts of a set.
pub fn overlaps<'a>(set: &str, parts: impl IntoIterator<Item = (&'a str, &'a [String])>) -> Vec<Overlap> {
    let (training, held_out): (Vec<_>, Vec<_>) = parts.into_iter().partition(|(part, _)| is_training(part));
    let mut found = Vec::new();
    for train in training {
        for &held_out in &held_out {
            found.extend(overlap(set, train, held_out));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_samples_are_found_once_and_sorted() {
        let ids = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (train, trainval, val) = (ids("a b"), ids("d a b c c"), ids("c d"));
        let parts = [("train", &train[..]), ("trainval", &trainval[..]), ("val", &val[..])];
        let want = Overlap { train: "trainval".into(), held_out: "val".into(), ids: ids("c d") };
        assert_eq!(overlaps("x", parts), [want]);
        assert_eq!(overlap("x", parts[0], parts[2]), None);
    }
}
