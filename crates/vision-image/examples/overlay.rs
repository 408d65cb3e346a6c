//! A picture, its label map over it, and what the colours mean, side by side:
//! `cargo run -p vision-image --example overlay -- PICTURE MASK.png OUT.png [IGNORED LABEL]`

use std::process::ExitCode;

use vision_image::draw::{LabelStyle, beside, legend, overlay};
use vision_image::{Error, open, open_labels, palette};

fn show(picture: &str, mask: &str, out: &str, ignore: Option<u8>) -> Result<(), Error> {
    let (picture, labels) = (open(picture)?, open_labels(mask)?);
    let colors = palette::distinct(256)?;
    let style = LabelStyle { ignore, ..LabelStyle::new(&colors) };
    let names: Vec<String> = (0..256).map(|class| format!("class {class}")).collect();
    let (seen, legend) = (overlay(&picture, &labels, &style)?, legend(&labels, &names, &style)?);
    beside(&[picture, seen, legend], 8, [255; 3])?.save(out)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let problem = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [picture, mask, out] => show(picture, mask, out, None).err().map(|error| error.to_string()),
        [picture, mask, out, ignore] => match ignore.parse() {
            Ok(ignore) => show(picture, mask, out, Some(ignore)).err().map(|error| error.to_string()),
            Err(error) => Some(format!("{ignore} is no label: {error}")),
        },
        _ => Some("needs PICTURE MASK.png OUT.png [IGNORED LABEL]".to_owned()),
    };
    let Some(problem) = problem else { return ExitCode::SUCCESS };
    std::io::Write::write_all(&mut std::io::stderr(), format!("{problem}\n").as_bytes()).ok();
    ExitCode::from(2)
}
