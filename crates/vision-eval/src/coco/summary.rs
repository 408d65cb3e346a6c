//! From matches to numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::matching::{AREAS, Fate, MOST, OVERLAPS, Piece, falling};
use crate::{Unit, Value};

/// Names of the twelve numbers, in the order of pycocotools: AP over all overlaps, at 0.5 and at 0.75, and over all
/// overlaps for small (up to 32 x 32 pixels), medium (up to 96 x 96) and large objects; AR with 1, 10 and 100 detections
/// of a category in an image, and with 100 for small, medium and large objects.
pub const STATS: [&str; 12] = [
    "ap",
    "ap_50",
    "ap_75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar_1",
    "ar_10",
    "ar_100",
    "ar_small",
    "ar_medium",
    "ar_large",
];

/// The range of areas that each of [`STATS`] is about.
const AREA_OF: [usize; 12] = [0, 0, 0, 1, 2, 3, 0, 0, 0, 1, 2, 3];

/// Recalls at which precision is read: 0, 0.01, ..., 1.
const RECALLS: usize = 101;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Images counted.
    pub images: usize,
    /// The numbers of [`STATS`], each the mean over the categories that have one; `None` if none has.
    pub mean: [Option<f64>; 12],
    /// For each range of areas (all, small, medium, large), the truths that count.
    pub truths: [u64; 4],
    /// The same of each category that occurs or was found, by number.
    pub categories: Vec<Category>,
}

/// What was measured of one category.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Category {
    /// Its number.
    pub category: u64,
    /// The numbers of [`STATS`]; `None` where it has no truths that count.
    pub stats: [Option<f64>; 12],
    /// For each range of areas (all, small, medium, large), the truths that count.
    pub truths: [u64; 4],
    /// Detections that count, at most 100 of an image.
    pub detections: u64,
}

impl Summary {
    /// The twelve numbers as pycocotools has them, -1 for what has no truths.
    pub fn stats(&self) -> [f64; 12] {
        self.mean.map(|value| value.unwrap_or(-1.0))
    }

    /// One of the twelve by its name in [`STATS`]; `None` also for other names.
    pub fn get(&self, name: &str) -> Option<f64> {
        STATS.iter().zip(self.mean).find(|(known, _)| **known == name).and_then(|(_, value)| value)
    }

    /// The twelve numbers with names, unit and number of truths; what has no truths is 0.
    pub fn values(&self) -> Vec<Value> {
        let value = |(index, name): (usize, &&str)| Value {
            name: (*name).to_owned(),
            value: self.mean[index].unwrap_or(0.0),
            unit: Unit::Fraction,
            higher_is_better: Some(true),
            count: self.truths[AREA_OF[index]],
        };
        STATS.iter().enumerate().map(value).collect()
    }
}

/// The numbers of each category, and their means.
pub(super) fn summarise(images: usize, pieces: &BTreeMap<u64, BTreeMap<u64, Piece>>) -> Summary {
    let categories: Vec<Category> =
        pieces.iter().map(|(&category, pieces)| measure(category, pieces)).collect();
    let mean = std::array::from_fn(|index| {
        let known: Vec<f64> = categories.iter().filter_map(|category| category.stats[index]).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    });
    let truths = std::array::from_fn(|area| categories.iter().map(|category| category.truths[area]).sum());
    Summary { images, mean, truths, categories }
}

fn measure(category: u64, pieces: &BTreeMap<u64, Piece>) -> Category {
    let truths: [u64; 4] =
        std::array::from_fn(|area| pieces.values().map(|piece| u64::from(piece.truths[area])).sum());
    let mut stats = [None; 12];
    for area in (0..AREAS.len()).filter(|&area| truths[area] > 0) {
        let precisions = precisions(area, truths[area], pieces);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let recall = |most: usize| Some(recall(area, most, truths[area], pieces));
        if area == 0 {
            stats[0] = Some(mean(&precisions));
            // Overlaps of 0.5 and 0.75.
            stats[1] = Some(precisions[0]);
            stats[2] = Some(precisions[5]);
            (stats[6], stats[7], stats[8]) = (recall(1), recall(10), recall(MOST));
        } else {
            (stats[2 + area], stats[8 + area]) = (Some(mean(&precisions)), recall(MOST));
        }
    }
    let detections = pieces.values().map(|piece| piece.scores.len() as u64).sum();
    Category { category, stats, truths, detections }
}

/// For each overlap the mean of the precisions at all recalls.
fn precisions(area: usize, truths: u64, pieces: &BTreeMap<u64, Piece>) -> [f64; OVERLAPS] {
    let each = |piece: &Piece| -> Vec<(f64, Fate)> {
        piece.scores.iter().copied().zip(piece.fates[area].iter().copied()).collect()
    };
    let mut found: Vec<(f64, Fate)> = pieces.values().flat_map(each).collect();
    // Equal scores keep the order of images.
    found.sort_by(|a, b| falling(a.0, b.0));
    std::array::from_fn(|overlap| {
        let (mut right, mut wrong) = (0_u64, 0_u64);
        let mut curve: Vec<(f64, f64)> = Vec::with_capacity(found.len());
        for (_, fate) in &found {
            let bit = |bits: u16| u64::from(bits >> overlap & 1);
            let counts = 1 - bit(fate.ignored);
            right += counts * bit(fate.matched);
            wrong += counts * (1 - bit(fate.matched));
            let precision = right as f64 / ((wrong + right) as f64 + f64::EPSILON);
            curve.push((right as f64 / truths as f64, precision));
        }
        // Precision at a recall is the best at that or any higher one.
        let mut best = 0.0_f64;
        for (_, precision) in curve.iter_mut().rev() {
            best = best.max(*precision);
            *precision = best;
        }
        let (mut at, mut sum) = (0, 0.0);
        for step in 0..RECALLS {
            let wanted = if step == RECALLS - 1 { 1.0 } else { step as f64 * 0.01 };
            while curve.get(at).is_some_and(|(recall, _)| *recall < wanted) {
                at += 1;
            }
            // Recalls that are never reached have a precision of 0.
            sum += curve.get(at).map_or(0.0, |(_, precision)| *precision);
        }
        sum / RECALLS as f64
    })
}

/// The share of truths found by the `most` best detections of each image, as mean over the overlaps.
fn recall(area: usize, most: usize, truths: u64, pieces: &BTreeMap<u64, Piece>) -> f64 {
    let shares = (0..OVERLAPS).map(|overlap| {
        let right = |fate: &&Fate| (fate.matched & !fate.ignored) >> overlap & 1 == 1;
        let found = |piece: &Piece| piece.fates[area].iter().take(most).filter(right).count() as u64;
        pieces.values().map(found).sum::<u64>() as f64 / truths as f64
    });
    shares.sum::<f64>() / OVERLAPS as f64
}
