//! Factors of the pixels along one axis.

/// For each cell along one axis, the pixels it is made of and what each counts for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taps {
    /// Where the taps of each finished cell end.
    ends: Vec<usize>,
    taps: Vec<(u32, f64)>,
}

impl Taps {
    /// Adds `weight` to what `pixel` counts for in the cell being made.
    pub(crate) fn add(&mut self, pixel: usize, weight: f64) {
        let start = self.ends.last().copied().unwrap_or(0);
        let pixel = pixel as u32;
        // Samples advance along the axis, in either direction, so only the last two pixels can come up again.
        let recent = self.taps[start..].iter_mut().rev().take(2);
        for (at, sum) in recent {
            if *at == pixel {
                *sum += weight;
                return;
            }
        }
        self.taps.push((pixel, weight));
    }

    /// Ends the cell being made.
    pub(crate) fn end(&mut self) {
        self.ends.push(self.taps.len());
    }

    /// The taps of a finished cell.
    pub(crate) fn of(&self, cell: usize) -> &[(u32, f64)] {
        let start = if cell == 0 { 0 } else { self.ends[cell - 1] };
        &self.taps[start..self.ends[cell]]
    }

    /// Multiplies what the pixels of the cell being made count for.
    pub(crate) fn scale(&mut self, factor: f64) {
        let start = self.ends.last().copied().unwrap_or(0);
        for (_, weight) in &mut self.taps[start..] {
            *weight *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_on_the_same_pixels_are_added_up() {
        let mut taps = Taps::default();
        for (pixel, weight) in [(3, 0.5), (4, 0.5), (3, 0.25), (4, 0.75), (5, 1.0)] {
            taps.add(pixel, weight);
        }
        taps.scale(2.0);
        taps.end();
        taps.end();
        taps.add(5, 1.0);
        taps.end();
        assert_eq!(taps.of(0), [(3, 1.5), (4, 2.5), (5, 2.0)]);
        assert!(taps.of(1).is_empty());
        assert_eq!(taps.of(2), [(5, 1.0)]);
    }
}
