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
fn emoji32_has_one_vendor_in_each_part() {
    let open = |split| open_set(&SetSpec::new("emoji32", split), None).unwrap();
    let (train, test) = (open(Split::Train), open(Split::Test));
    for (set, vendor) in [(&train, "twitter/"), (&test, "google/")] {
        assert_eq!((set.len(), set.class_names().len(), set.name()), (1911, 10, "emoji32"));
        assert!(set.class_names().is_sorted());
        assert!(set.labels().iter().all(|label| (0..10).contains(label)));
        let names: BTreeSet<String> = (0..set.len()).map(|index| set.sample_name(index)).collect();
        assert_eq!(names.len(), 1911);
        assert!(names.contains(&format!("{vendor}1F600")));
        // Corners are transparent in nearly all drawings.
        let white = (0..set.len())
            .filter(|&index| set.get(index).unwrap().image.pixel(0, 0) == Some(&[255, 255, 255][..]))
            .count();
        assert!(white > 1500, "{white}");
    }
    // The same symbols in the same order, drawn differently.
    assert_eq!(train.labels(), test.labels());
    assert_eq!(test.fingerprint(), open(Split::Val).fingerprint());
    let (a, b) = (test.get(5).unwrap(), train.get(5).unwrap());
    assert_eq!(a.name.strip_prefix("google/"), b.name.strip_prefix("twitter/"));
    assert_ne!(a.image.data(), b.image.data());
    assert_eq!((a.image.width(), a.image.height(), a.image.channels()), (32, 32, 3));
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
