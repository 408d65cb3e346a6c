//! What each codeword of the encoding layer attends to, as numbers and pictures.

use candle_core::DType;
use serde::Serialize;
use vision_core::Pass;
use vision_image::draw::{Tile, sheet, titled};
use vision_image::{Filter, Image, resize};

use crate::error::{Error, Result};
use crate::predict::Predictor;

/// How much each position of a picture belongs to each codeword.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Height and width of the map that is encoded.
    pub size: [usize; 2],
    /// `(height, width, K)`, every position sums to 1.
    pub shares: Vec<f32>,
    /// Mean share of each codeword.
    pub usage: Vec<f64>,
}

/// How a codeword was used, for programs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Usage {
    /// The codeword.
    pub codeword: usize,
    /// Mean share over all positions, 0 to 1.
    pub share: f64,
    /// Share of the positions at which no other codeword has more.
    pub first: f64,
}

impl Attention {
    /// Looks at one picture.
    ///
    /// # Errors
    /// If the model has no codewords or a forward pass fails.
    pub fn of(predictor: &Predictor, image: &Image) -> Result<Self> {
        let Some((encoding, map)) =
            predictor.model().encoded(&predictor.input(image)?, &Pass::inference())?
        else {
            return Err(Error::config("model.context.codes", "this model has no codewords"));
        };
        let (_, height, width, _) = map.dims()?;
        let shares = encoding.assignments(&map)?.to_dtype(DType::F32)?;
        let codes = shares.dim(2)?;
        let shares: Vec<f32> = shares.flatten_all()?.to_vec1()?;
        let mut usage = vec![0.0; codes];
        for position in shares.chunks_exact(codes) {
            for (sum, &share) in usage.iter_mut().zip(position) {
                *sum += f64::from(share);
            }
        }
        for sum in &mut usage {
            *sum /= (height * width) as f64;
        }
        Ok(Self { size: [height, width], shares, usage })
    }

    /// Number of codewords.
    pub fn codes(&self) -> usize {
        self.usage.len()
    }

    /// All codewords, the most used first.
    pub fn ranking(&self) -> Vec<Usage> {
        let codes = self.codes();
        let mut first = vec![0usize; codes];
        for position in self.shares.chunks_exact(codes) {
            let best = position.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            if let Some(count) = best.and_then(|(code, _)| first.get_mut(code)) {
                *count += 1;
            }
        }
        let positions = (self.size[0] * self.size[1]) as f64;
        let mut ranking: Vec<Usage> = self
            .usage
            .iter()
            .zip(first)
            .enumerate()
            .map(|(codeword, (&share, first))| Usage { codeword, share, first: first as f64 / positions })
            .collect();
        ranking.sort_by(|a, b| b.share.total_cmp(&a.share));
        ranking
    }

    /// The picture in grey with the share of a codeword in red over it, the largest share of the picture in full.
    ///
    /// # Errors
    /// If there is no such codeword.
    pub fn draw(&self, image: &Image, codeword: usize) -> Result<Image> {
        let codes = self.codes();
        if codeword >= codes {
            return Err(Error::size("codeword", format!("below {codes}"), codeword));
        }
        let shares = || self.shares.iter().skip(codeword).step_by(codes);
        let largest = shares().fold(f32::MIN_POSITIVE, |a, &b| a.max(b));
        let levels = shares().map(|share| (share / largest * 255.0).round() as u8).collect();
        let small = Image::new(self.size[1] as u32, self.size[0] as u32, 1, levels)?;
        let levels = resize(&small, image.width(), image.height(), Filter::Bilinear)?;
        let mut out = image.to_gray().to_rgb();
        for (pixel, &level) in out.data_mut().chunks_exact_mut(3).zip(levels.data()) {
            let mix = |from: u8, to: f32| {
                let part = f32::from(level) / 255.0;
                (f32::from(from) * (1.0 - part) + to * part).round() as u8
            };
            let grey = pixel[0];
            pixel.copy_from_slice(&[mix(grey, 230.0), mix(grey, 30.0), mix(grey, 30.0)]);
        }
        Ok(out)
    }
}

/// One row per picture: the picture, and the `top` codewords that all pictures together use most, each under its number
/// and mean share.
///
/// # Errors
/// If there is no picture, or models differ between them.
pub fn attention_sheet(
    pictures: &[(Image, Attention)],
    top: usize,
    cell: u32,
) -> Result<(Vec<Usage>, Image)> {
    let codes = pictures.first().map_or(0, |(_, attention)| attention.codes());
    const GAP: u32 = 6;
    const PAPER: [u8; 3] = [255; 3];
    let mut overall: Vec<Usage> =
        (0..codes).map(|codeword| Usage { codeword, share: 0.0, first: 0.0 }).collect();
    for (_, attention) in pictures {
        for usage in attention.ranking() {
            let Some(sum) = overall.get_mut(usage.codeword) else {
                return Err(Error::size("codewords", codes, attention.codes()));
            };
            sum.share += usage.share / pictures.len() as f64;
            sum.first += usage.first / pictures.len() as f64;
        }
    }
    overall.sort_by(|a, b| b.share.total_cmp(&a.share));
    let mut rows = Vec::new();
    for (image, attention) in pictures {
        let mut row = vec![Tile::new(image.to_rgb())];
        for usage in overall.iter().take(top) {
            row.push(Tile::new(attention.draw(image, usage.codeword)?));
        }
        rows.push(row);
    }
    let mut titles = vec![String::new()];
    let title =
        |usage: &Usage| format!("codeword {}\n{:.1} % of positions", usage.codeword, 100.0 * usage.share);
    titles.extend(overall.iter().take(top).map(title));
    let plain = sheet(&rows, cell, GAP, PAPER)?;
    let sheet = titled(&plain, &titles, cell, GAP, PAPER)?;
    Ok((overall, sheet))
}
