//! The sets that travel in the library, opened by name.
#![cfg(feature = "samples")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use vision_datasets::{Dataset, LabelledSet, SetSpec, Split, catalog, open_set};

#[test]
fn fashion_mnist_10k() {
    let open = |split| open_set(&SetSpec::new("fashion-mnist-10k", split), None).unwrap();
    let (train, test) = (open(Split::Train), open(Split::Test));
    assert_eq!((train.len(), test.len(), open(Split::Val).len()), (8000, 2000, 2000));
    assert_eq!(train.class_names().len(), 10);
    assert_ne!(train.fingerprint(), test.fingerprint());
}

#[test]
fn emoji32_has_both_drawings_on_white() {
    let set = open_set(&SetSpec::new("emoji32", Split::Train), None).unwrap();
    assert_eq!((set.len(), set.class_names().len(), set.name()), (3822, 10, "emoji32"));
    assert!(set.class_names().is_sorted());
    // The second half is the other vendor's drawing of the same symbols.
    let (google, twitter) = set.labels().split_at(1911);
    assert_eq!(google, twitter);
    assert!(google.iter().all(|label| (0..10).contains(label)));
    let (a, b) = (set.get(5).unwrap(), set.get(1911 + 5).unwrap());
    assert_eq!(a.name.strip_prefix("google/"), b.name.strip_prefix("twitter/"));
    assert_ne!(a.image.data(), b.image.data());
    let names: BTreeSet<String> = (0..set.len()).map(|index| set.sample_name(index)).collect();
    assert_eq!(names.len(), 3822);
    assert!(names.contains("google/1F600"));
    assert_eq!((a.image.width(), a.image.height(), a.image.channels()), (32, 32, 3));
    // Corners are transparent in nearly all drawings.
    let white = (0..set.len())
        .filter(|&index| set.get(index).unwrap().image.pixel(0, 0) == Some(&[255, 255, 255][..]))
        .count();
    assert!(white > 3000, "{white}");
    let message = open_set(&SetSpec::new("emoji32", Split::Test), None).err().unwrap().to_string();
    assert!(message.contains("one part, train"), "{message}");
}

#[test]
fn the_catalogue_counts_them_right() {
    for entry in catalog().unwrap().into_iter().filter(|entry| entry.embedded && entry.classes.is_some()) {
        for (part, count) in entry.counts {
            let split = if part == "train" { Split::Train } else { Split::Test };
            let set = open_set(&SetSpec::new(&entry.name, split), None).unwrap();
            assert_eq!(set.len() as u64, count, "{} {part}", entry.name);
            assert_eq!(Some(set.class_names().len()), entry.classes);
        }
    }
}
