//! Line plots as SVG.

use plotters::prelude::*;
use plotters::style::RGBColor;

use super::Series;
use crate::error::{Error, Result};

/// Tells neighbouring lines apart, for readers who confuse red and green too (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// More points than this are thinned out; a plot is 640 pixels wide.
const MAX_POINTS: usize = 640;

/// Draws `series`; nothing if it has no finite point.
pub(super) fn svg(series: &Series) -> Result<Option<String>> {
    let lines: Vec<(&str, Vec<(f64, f64)>)> =
        series.lines.iter().map(|(name, points)| (name.as_str(), thinned(points))).collect();
    let all = || lines.iter().flat_map(|(_, points)| points.iter());
    if all().next().is_none() {
        return Ok(None);
    }
    let x = padded(all().map(|point| point.0), 0.0);
    let y = padded(all().map(|point| point.1), 0.05);
    let mut out = String::new();
    draw(&mut out, series, &lines, x, y)
        .map_err(|problem| Error::Format { what: format!("plot `{}`", series.title), problem })?;
    Ok(Some(out))
}

fn draw(
    out: &mut String,
    series: &Series,
    lines: &[(&str, Vec<(f64, f64)>)],
    x: std::ops::Range<f64>,
    y: std::ops::Range<f64>,
) -> std::result::Result<(), String> {
    let area = SVGBackend::with_string(out, (640, 320)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| error.to_string())?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .caption(&series.title, ("sans-serif", 16))
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)
        .map_err(|error| error.to_string())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(&series.x_label)
        .y_desc(&series.y_label)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .draw()
        .map_err(|error| error.to_string())?;
    for ((name, points), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let drawn = chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))
            .map_err(|error| error.to_string())?;
        if lines.len() > 1 {
            let colour = *colour;
            drawn
                .label(*name)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        // A line of one point would be invisible.
        if points.len() == 1 {
            chart
                .draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))
                .map_err(|error| error.to_string())?;
        }
    }
    if lines.len() > 1 {
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(|error| error.to_string())?;
    }
    area.present().map_err(|error| error.to_string())
}

/// Finite points, averaged in groups so that at most [`MAX_POINTS`] remain.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<(f64, f64)> =
        points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let group = finite.len().div_ceil(MAX_POINTS).max(1);
    finite
        .chunks(group)
        .map(|chunk| {
            let n = chunk.len() as f64;
            (chunk.iter().map(|p| p.0).sum::<f64>() / n, chunk.iter().map(|p| p.1).sum::<f64>() / n)
        })
        .collect()
}

/// The range of `values`, wider by `share` at both ends and never empty.
fn padded(values: impl Iterator<Item = f64>, share: f64) -> std::ops::Range<f64> {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values {
        low = low.min(value);
        high = high.max(value);
    }
    if high - low <= 1e-12 * high.abs().max(low.abs()) {
        let pad = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
        return low - pad..high + pad;
    }
    let pad = (high - low) * share;
    low - pad..high + pad
}

/// At most four digits, without trailing zeros.
fn short(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs();
    if !(1e-4..1e6).contains(&magnitude) {
        return format!("{value:.1e}");
    }
    let digits = (3 - magnitude.log10().floor() as i32).clamp(0, 7) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: Vec<(f64, f64)>) -> Series {
        Series {
            title: "loss".into(),
            x_label: "step".into(),
            y_label: "loss".into(),
            lines: vec![("train".into(), points)],
        }
    }

    #[test]
    fn draws_lines_single_points_and_constant_lines() {
        for points in [vec![(0.0, 1.0), (1.0, 0.5)], vec![(3.0, 2.0)], vec![(0.0, 7.0), (9.0, 7.0)]] {
            let svg = svg(&series(points)).unwrap().unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        }
    }

    #[test]
    fn nothing_finite_is_nothing_to_draw() {
        assert!(svg(&series(vec![])).unwrap().is_none());
        assert!(svg(&series(vec![(0.0, f64::NAN)])).unwrap().is_none());
    }

    #[test]
    fn many_points_are_thinned() {
        let points: Vec<(f64, f64)> = (0..10_000).map(|i| (f64::from(i), 1.0)).collect();
        let thin = thinned(&points);
        assert!(thin.len() <= MAX_POINTS);
        assert!((thin[0].0 - 7.5).abs() < 1e-9);
    }

    #[test]
    fn labels_are_short() {
        for (value, want) in [(0.0, "0"), (0.5, "0.5"), (1234.5, "1234"), (0.001, "0.001"), (2e7, "2.0e7")] {
            assert_eq!(short(value), want);
        }
    }
}
