//! Pictures beside their neighbours.

use vision_image::Image;
use vision_image::draw::{Tile, sheet};
use vision_train::Picture;

use super::features::Features;
use super::metrics::cross_view;
use crate::config::train::Config;
use crate::data::AnySet;
use crate::error::Result;

const CELL: u32 = 64;
const GAP: u32 = 6;
const RIGHT: [u8; 3] = [46, 160, 67];
const WRONG: [u8; 3] = [207, 34, 46];
const QUERY: [u8; 3] = [120, 120, 120];
const PAPER: [u8; 3] = [255, 255, 255];

fn picture(set: &AnySet, index: usize) -> Result<Image> {
    Ok(set.get(index)?.image.to_rgb())
}

/// `wanted` numbers spread evenly over `0..len`.
fn spread(len: usize, wanted: usize) -> Vec<usize> {
    let wanted = wanted.min(len);
    (0..wanted).map(|i| i * len / wanted + len / (2 * wanted)).collect()
}

/// Test pictures, each with its nearest training pictures, best first; green has the query's class, red
/// another.
///
/// # Errors
/// If a picture cannot be read.
pub fn neighbour_sheet(
    cfg: &Config,
    train_set: &AnySet,
    test_set: &AnySet,
    train: &Features,
    test: &Features,
    same: bool,
) -> Result<Picture> {
    let index = train.index()?;
    let wanted = cfg.eval.sheet_neighbours.min(train.len());
    let k = (wanted + usize::from(same)).min(train.len());
    let mut rows = Vec::new();
    for query in spread(test.len(), cfg.eval.sheet_queries) {
        let mut row = vec![Tile { image: picture(test_set, query)?, border: Some(QUERY) }];
        for hits in index.search(test.row(query), k)? {
            // A picture of the gallery is its own nearest neighbour; that says nothing.
            for hit in hits.iter().filter(|hit| !(same && hit.row as usize == query)).take(wanted) {
                let right = train.labels[hit.row as usize] == test.labels[query];
                let border = Some(if right { RIGHT } else { WRONG });
                row.push(Tile { image: picture(train_set, hit.row as usize)?, border });
            }
        }
        rows.push(row);
    }
    Ok(Picture {
        name: "neighbours".to_owned(),
        caption: format!(
            "Left: a test picture. Right of it: its {wanted} nearest training pictures by the learned feature, \
             nearest first. Green has the same class, red another; classes were not used in training."
        ),
        image: sheet(&rows, CELL, GAP, PAPER)?,
    })
}

/// Pictures of either group, each with the nearest pictures of the other; green is the same instance.
/// `features` numbers the pictures of the sets one set after the other, or those of the last set alone.
///
/// # Errors
/// If a picture cannot be read.
pub fn pair_sheet(cfg: &Config, sets: [&AnySet; 2], features: &Features) -> Result<Picture> {
    let [first, last] = sets;
    let before = features.len() - last.len();
    let picture = |row: usize| match row.checked_sub(before) {
        Some(row) => picture(last, row),
        None => picture(first, row),
    };
    let retrieval = cross_view(features, cfg)?;
    let mut rows = Vec::new();
    for at in spread(retrieval.queries.len(), cfg.eval.sheet_queries) {
        let mut row = vec![Tile { image: picture(retrieval.queries[at])?, border: Some(QUERY) }];
        for &found in &retrieval.found[at] {
            let border = Some(if found == retrieval.partner[at] { RIGHT } else { WRONG });
            row.push(Tile { image: picture(found)?, border });
        }
        rows.push(row);
    }
    Ok(Picture {
        name: "pairs".to_owned(),
        caption: "Left: a picture of one group. Right of it: the five nearest of the other group by the \
                  learned feature, nearest first. Green is the same instance; pairs were not used in training."
            .to_owned(),
        image: sheet(&rows, CELL, GAP, PAPER)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_spread() {
        assert_eq!(spread(10, 2), [2, 7]);
        assert_eq!(spread(3, 5), [0, 1, 2]);
        assert!(spread(0, 5).is_empty());
    }
}
