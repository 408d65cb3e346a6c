//! Generated scenes in which some classes can only be told apart by what is elsewhere in the picture.

use vision_image::{Image, LabelMap};

use super::{SegmentationSet, Segmented};
use crate::{Dataset, Error, Fingerprint, Result, SampleRng};

/// The name of the set.
pub(super) const NAME: &str = "context-scenes";

/// Width and height of a picture.
const SIDE: u32 = 64;

/// Clues lie left of this column.
const CLUES_END: u32 = 20;

/// Objects lie from this column on.
const OBJECTS_START: u32 = 42;

const CLASSES: [&str; 9] = [
    "background",
    "red clue",
    "green clue",
    "blue clue",
    "yellow clue",
    "disc by red or green",
    "disc by blue or yellow",
    "square by red or blue",
    "square by green or yellow",
];

/// Red, green, blue and yellow; far from each other, from the grey around them and from both objects.
const CLUES: [[f64; 3]; 4] = [[0.9, 0.15, 0.1], [0.1, 0.75, 0.15], [0.15, 0.2, 0.9], [0.9, 0.85, 0.1]];
const SQUARE: [f64; 3] = [0.1, 0.7, 0.8];
const DISC: [f64; 3] = [0.8, 0.1, 0.7];

/// In which drawings of labels show classes: clues as they are, objects in shades of theirs.
const PALETTE: [[u8; 3]; 9] = [
    [128, 128, 128],
    [230, 38, 26],
    [26, 191, 38],
    [38, 51, 230],
    [230, 217, 26],
    [204, 26, 179],
    [102, 13, 90],
    [26, 179, 204],
    [13, 90, 102],
];

/// A generated set that only a model of context can label: what an object is depends on a disc far away from it.
///
/// A picture is 64x64 RGB: grey noise with mean 0.5 and standard deviation 0.05. One of four scenes is shown by one or
/// two discs in its colour (radius 4 to 6) left of column 20, labels 1 to 4. From column 42 on there are one to three
/// objects, discs of radius 4 to 8 in (.8, .1, .7) and squares of half-side 3 to 7 in (.1, .7, .8); one that would lie
/// over another is left out. A disc is class 5 in scenes 0 and 1 and class 6 in scenes 2 and 3; a square is class 7 in
/// scenes 0 and 2 and class 8 in scenes 1 and 3. So the pixels of an object are the same in all scenes, and a model
/// that sees less than 22 pixels around a pixel can only guess.
///
/// Colours are rounded to eight bits, as all pictures here. The noise is the sum of twelve uniform bytes, in
/// whole numbers: nearly normal, and the same on every machine. Samples are made when they are asked for.
///
/// ```
/// use vision_datasets::{ContextScenes, Dataset, SegmentationSet};
///
/// let set = ContextScenes::new("train", 100, 0)?;
/// let sample = set.get(7)?;
/// assert_eq!((sample.image.width(), sample.labels.height()), (64, 64));
/// assert!(sample.labels.counts()[1 + set.scene(7)] > 0);
/// assert_eq!(set.get(7)?, sample);
/// # Ok::<(), vision_datasets::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ContextScenes {
    part: String,
    count: usize,
    seed: u64,
    classes: Vec<String>,
}

impl ContextScenes {
    /// How many scenes a part has unless said otherwise: 12,000 to train on (1,500 batches of eight), 256 elsewhere.
    pub fn usual_count(part: &str) -> usize {
        if part == "train" { 12_000 } else { 256 }
    }

    /// The first `count` scenes of a part. Parts and seeds are independent of each other; a larger set begins with the
    /// samples of a smaller one.
    ///
    /// # Errors
    /// If `part` is not `train`, `val` or `test`, or `count` is 0.
    pub fn new(part: &str, count: usize, seed: u64) -> Result<Self> {
        if !["train", "val", "test"].contains(&part) {
            let problem = format!("has no part {part:?}, it has train, val and test");
            return Err(Error::Set { set: NAME.to_owned(), problem });
        }
        if count == 0 {
            return Err(Error::argument("count", "0, must be at least 1"));
        }
        let classes = CLASSES.map(str::to_owned).to_vec();
        Ok(Self { part: part.to_owned(), count, seed, classes })
    }

    /// The scene of sample `index`, 0 to 3.
    pub fn scene(&self, index: usize) -> usize {
        self.rng(index).below(CLUES.len() as u32) as usize
    }

    fn rng(&self, index: usize) -> SampleRng {
        SampleRng::keyed(&format!("{NAME}/{}", self.part), self.seed, 0, index as u64)
    }

    fn draw(&self, index: usize) -> Result<(Image, LabelMap)> {
        let rng = &mut self.rng(index);
        let scene = rng.below(CLUES.len() as u32) as u8;
        let pixels = (SIDE * SIDE) as usize;
        let mut canvas =
            Canvas { image: (0..pixels * 3).map(|_| noise(rng)).collect(), labels: vec![0; pixels] };
        for _ in 0..=rng.below(2) {
            let radius = 4 + rng.below(3);
            let shape = Shape::place(rng, [0, CLUES_END], radius, false);
            canvas.paint(&shape, CLUES[usize::from(scene)], 1 + scene);
        }
        for _ in 0..=rng.below(3) {
            let square = rng.below(2) == 1;
            let size = 4 + rng.below(5);
            let shape = Shape::place(rng, [OBJECTS_START, SIDE], size, square);
            if canvas.is_free(&shape) {
                let (color, label) = if square { (SQUARE, 7 + scene % 2) } else { (DISC, 5 + scene / 2) };
                canvas.paint(&shape, color, label);
            }
        }
        Ok((Image::new(SIDE, SIDE, 3, canvas.image)?, LabelMap::new(SIDE, SIDE, canvas.labels)?))
    }
}

/// A sample of grey noise. Twelve bytes add up to 1530 on average with a standard deviation of 256, and all of it is
/// exact in binary.
fn noise(rng: &mut SampleRng) -> u8 {
    let sum: u32 = (0..3).flat_map(|_| rng.next_u32().to_le_bytes()).map(u32::from).sum();
    let deviations = (f64::from(sum) - 1530.0) / 256.0;
    (255.0 * 0.5 + 12.75 * deviations).round() as u8
}

/// A disc, or a square whose half-side is one less than the radius of the disc.
struct Shape {
    x: u32,
    y: u32,
    size: u32,
    square: bool,
}

impl Shape {
    /// Somewhere inside the columns, whole.
    fn place(rng: &mut SampleRng, columns: [u32; 2], size: u32, square: bool) -> Self {
        let inside =
            |rng: &mut SampleRng, [start, end]: [u32; 2]| start + size + rng.below(end - start - 2 * size);
        let x = inside(rng, columns);
        let y = inside(rng, [0, SIDE]);
        Self { x, y, size, square }
    }

    /// The numbers of its pixels.
    fn pixels(&self) -> impl Iterator<Item = usize> + '_ {
        let (x, y, size) = (self.x, self.y, self.size);
        let all =
            (y - size..=y + size).flat_map(move |row| (x - size..=x + size).map(move |column| (column, row)));
        let mine = move |&(column, row): &(u32, u32)| {
            let (dx, dy) = (column.abs_diff(x), row.abs_diff(y));
            if self.square { dx.max(dy) < size } else { dx * dx + dy * dy <= size * size }
        };
        all.filter(mine).map(|(column, row)| (row * SIDE + column) as usize)
    }
}

struct Canvas {
    image: Vec<u8>,
    labels: Vec<u8>,
}

impl Canvas {
    fn is_free(&self, shape: &Shape) -> bool {
        shape.pixels().all(|at| self.labels.get(at) == Some(&0))
    }

    fn paint(&mut self, shape: &Shape, color: [f64; 3], label: u8) {
        let color = color.map(|value| (value * 255.0).round() as u8);
        let pixels = self.image.as_chunks_mut::<3>().0;
        for at in shape.pixels() {
            if let (Some(pixel), Some(known)) = (pixels.get_mut(at), self.labels.get_mut(at)) {
                (*pixel, *known) = (color, label);
            }
        }
    }
}

impl Dataset for ContextScenes {
    type Sample = Segmented;

    fn len(&self) -> usize {
        self.count
    }

    fn get(&self, index: usize) -> Result<Segmented> {
        if index >= self.count {
            return Err(Error::Index { set: NAME.to_owned(), index, len: self.count });
        }
        let (image, labels) = self.draw(index)?;
        Ok(Segmented { image, labels, index, name: self.sample_name(index) })
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::builder(NAME).bytes(self.part.as_bytes()).number(self.seed).finish(self.count)
    }

    fn sample_name(&self, index: usize) -> String {
        format!("{NAME}/{}#{index}", self.part)
    }
}

impl SegmentationSet for ContextScenes {
    fn name(&self) -> &str {
        NAME
    }

    fn class_names(&self) -> &[String] {
        &self.classes
    }

    fn palette(&self) -> &[[u8; 3]] {
        &PALETTE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::hex;
    use sha2::{Digest, Sha256};

    #[test]
    fn follows_the_rules() {
        let set = ContextScenes::new("train", 2000, 3).unwrap();
        let (mut scenes, mut objects, mut sizes) = ([0; 4], [0; 9], Vec::new());
        for index in 0..set.len() {
            let sample = set.get(index).unwrap();
            let scene = set.scene(index);
            scenes[scene] += 1;
            let counts = sample.labels.counts();
            let allowed = [0, 1 + scene, 5 + scene / 2, 7 + scene % 2];
            for (label, &count) in counts.iter().enumerate() {
                assert!(count == 0 || allowed.contains(&label), "scene {scene} has label {label}");
                if count > 0 && label < 9 {
                    objects[label] += 1;
                }
            }
            assert!(counts[1 + scene] > 0 && counts[5..9].iter().sum::<u64>() > 0);
            sizes.push(counts[5..9].iter().sum::<u64>());
            for (at, &label) in sample.labels.data().iter().enumerate() {
                let (x, pixel) = (at as u32 % SIDE, sample.image.pixel(at as u32 % SIDE, at as u32 / SIDE));
                let want = match label {
                    0 => continue,
                    1..=4 => PALETTE[usize::from(label)],
                    5 | 6 => PALETTE[5],
                    _ => PALETTE[7],
                };
                assert_eq!(pixel, Some(&want[..]));
                assert!(if label < 5 { x < CLUES_END } else { x >= OBJECTS_START });
            }
        }
        assert!(scenes.iter().all(|count| (430..570).contains(count)), "{scenes:?}");
        assert!(objects[5..].iter().all(|count| (500..900).contains(count)), "{objects:?}");
        // One square of half-side 3, and more than two large objects.
        assert!(sizes.contains(&49) && sizes.iter().any(|&size| size > 450));
    }

    #[test]
    fn noise_has_the_mean_and_deviation_asked_for() {
        let rng = &mut SampleRng::new(0, 0, 0);
        let n = 200_000;
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..n {
            let value = f64::from(noise(rng)) / 255.0 - 0.5;
            sum += value;
            squares += value * value;
        }
        let mean = sum / f64::from(n);
        assert!(mean.abs() < 5e-4, "{mean}");
        assert!(((squares / f64::from(n) - mean * mean).sqrt() - 0.05).abs() < 3e-4);
    }

    #[test]
    fn parts_seeds_and_numbers_differ_and_nothing_else() {
        let set = |part, count, seed| ContextScenes::new(part, count, seed).unwrap();
        let sample = set("train", 5, 0).get(3).unwrap();
        assert_eq!(set("train", 50, 0).get(3).unwrap(), sample);
        for other in [set("val", 5, 0), set("train", 5, 1)] {
            assert_ne!(other.get(3).unwrap().image, sample.image);
            assert_ne!(other.fingerprint(), set("train", 5, 0).fingerprint());
        }
        assert_eq!(sample.name, "context-scenes/train#3");
        assert!(set("test", 2, 0).get(2).is_err());
        assert!(ContextScenes::new("all", 2, 0).unwrap_err().to_string().contains("train, val and test"));
        assert!(ContextScenes::new("val", 0, 0).is_err());
    }

    /// Results measured on these scenes are only comparable while they stay the same.
    #[test]
    fn scenes_are_fixed() {
        let set = ContextScenes::new("val", 16, 0).unwrap();
        let mut hash = Sha256::new();
        for index in 0..set.len() {
            let sample = set.get(index).unwrap();
            hash.update(sample.image.data());
            hash.update(sample.labels.data());
        }
        assert_eq!(hex(&hash.finalize()), "30e2fb34fa14e86acd14f2baeb182b64b889274224990065e1a7f4ef072ac693");
    }
}
