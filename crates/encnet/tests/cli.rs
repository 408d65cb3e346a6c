//! The program as people run it: a folder of one's own, exact resume, labels and pictures, errors that name what is wrong.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use vision_image::{Image, LabelMap, encode_indexed, open_labels};

/// Pictures of 32x24 whose left part is dark and whose right part is light, with masks that say so.
fn street(root: &Path) -> PathBuf {
    for (part, count) in [("train", 8u32), ("val", 3)] {
        let (images, labels) = (root.join("images").join(part), root.join("labels").join(part));
        fs::create_dir_all(&images).unwrap();
        fs::create_dir_all(&labels).unwrap();
        for n in 0..count {
            let edge = 8 + (n * 5) % 16;
            let light = |i: u32| i % 32 >= edge;
            let pixels = (0..32 * 24).flat_map(|i| {
                let tone = if light(i) { 180 } else { 40 } + (i * (n + 3) * 7) % 31;
                [tone as u8, (tone / 2) as u8, (tone / 3) as u8]
            });
            Image::new(32, 24, 3, pixels.collect()).unwrap().save(images.join(format!("{n}.png"))).unwrap();
            let map = LabelMap::new(32, 24, (0..32 * 24).map(|i| u8::from(light(i))).collect()).unwrap();
            fs::write(labels.join(format!("{n}.png")), encode_indexed(&map, &PALETTE).unwrap()).unwrap();
        }
    }
    fs::write(root.join("classes.txt"), "dark 10 20 30\nlight 200 210 220\n").unwrap();
    root.to_owned()
}

const PALETTE: [[u8; 3]; 2] = [[10, 20, 30], [200, 210, 220]];

fn encnet(verb: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_encnet"));
    command.arg(verb);
    command
}

fn training(data: &Path, out: &Path) -> Command {
    let mut command = encnet("train");
    command.args(["--config", "camvid", "--no-expect", "--threads", "2"]);
    for set in [
        "data.batch_size=4",
        "data.augment=[]",
        "model.backbone.arch=\"small\"",
        "model.classes=2",
        "model.backbone.width=4",
        "model.head.channels=8",
        "model.context.codes=4",
        "run.epochs=4",
        "run.log_every_steps=1",
        "run.checkpoint_every_steps=2",
        "eval.sliding.base_size=32",
        "eval.sliding.crop_size=24",
    ] {
        command.args(["--set", set]);
    }
    command.arg("--set").arg(format!("data.path={:?}", data.display().to_string()));
    command.arg("--out").arg(out);
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn fail(command: &mut Command, code: i32, words: &[&str]) {
    let output = command.output().unwrap();
    let message = text(&output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is missing in: {message}");
    }
}

/// Loss and learning rate of every step.
fn steps(out: &Path) -> Vec<String> {
    let log = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let kept = |line: &&str| line.contains("\"loss\"") || line.contains("\"lr\"");
    log.lines().filter(kept).map(str::to_owned).collect()
}

#[test]
fn from_a_folder_to_labels() {
    let folder = tempfile::tempdir().unwrap();
    let data = street(&folder.path().join("data"));
    let run = folder.path().join("run");
    succeed(&mut training(&data, &run));
    assert_eq!(steps(&run).len(), 2 * 8);

    // Check 25: stopped in the middle of an epoch, the same steps follow.
    let parts = folder.path().join("parts");
    succeed(training(&data, &parts).args(["--set", "run.max_steps=3"]));
    succeed(training(&data, &parts).arg("--resume"));
    assert_eq!(steps(&parts), steps(&run));
    let model = |run: &Path| fs::read(run.join("checkpoints/step-8/model.safetensors")).unwrap();
    assert!(model(&parts) == model(&run));

    // Measured at several scales, with tables and pictures.
    let measured = folder.path().join("measured");
    let said = succeed(
        encnet("eval")
            .arg("--weights")
            .arg(&run)
            .args(["--set", "eval.mode=\"sliding\"", "--out"])
            .arg(&measured),
    );
    assert!(said.contains("miou") && said.contains("pix_acc"), "{said}");
    let page = fs::read_to_string(measured.join("report.html")).unwrap();
    assert!(page.contains("dark") && page.contains("confusion"), "names and pictures are missing");

    // Exported weights know the names of the classes and how to look at a picture.
    let weights = folder.path().join("street.safetensors");
    succeed(encnet("export").arg("--weights").arg(&run).arg("--out").arg(&weights));
    let found = folder.path().join("found");
    let pictures = data.join("images/val");
    for arguments in [&[][..], &["--sliding", "--batch", "3"]] {
        succeed(
            encnet("predict")
                .arg("--weights")
                .arg(&weights)
                .args(arguments)
                .arg("--out")
                .arg(&found)
                .arg(&pictures),
        );
        let labels = open_labels(found.join("0.png")).unwrap();
        assert_eq!((labels.width(), labels.height()), (32, 24));
        assert_eq!(labels.palette().unwrap()[..2], PALETTE);
        let drawing = vision_image::open(found.join("0.drawing.png")).unwrap();
        assert!(drawing.width() > 32, "a legend is missing");
        let areas = fs::read_to_string(found.join("areas.jsonl")).unwrap();
        assert_eq!(areas.lines().count(), 3);
        for line in areas.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let shares = line["areas"].as_array().unwrap().iter().map(|area| area["share"].as_f64().unwrap());
            assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9);
        }
    }

    // Frames of a video keep their size, and what was found before a broken one is kept.
    let (video, frames) = (folder.path().join("video"), folder.path().join("frames"));
    fs::create_dir_all(&frames).unwrap();
    for name in ["0.png", "1.png"] {
        fs::copy(pictures.join(name), frames.join(name)).unwrap();
    }
    fs::write(frames.join("2.png"), b"cut").unwrap();
    let mut predict = encnet("predict");
    predict.arg("--weights").arg(&weights).args(["--frames", "--out"]).arg(&video).arg(&frames);
    fail(&mut predict, 2, &["2.png"]);
    for name in ["0.drawing.png", "1.drawing.png"] {
        let drawing = vision_image::open(video.join(name)).unwrap();
        assert_eq!((drawing.width(), drawing.height()), (32, 24));
    }
    assert_eq!(fs::read_to_string(video.join("areas.jsonl")).unwrap().lines().count(), 2);
    vision_image::open(video.join("legend.png")).unwrap();
    assert!(succeed(predict.args(["--skip-broken", "1"])).contains("2 pictures"));

    let said = succeed(
        encnet("codewords")
            .arg("--weights")
            .arg(&weights)
            .args(["--top", "2", "--out"])
            .arg(&found)
            .arg(&pictures),
    );
    assert_eq!(said.matches("codeword ").count(), 2, "{said}");
    let file = fs::read_to_string(found.join("codewords.json")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    assert_eq!(file["codewords"].as_array().unwrap().len(), 4);
    assert!(found.join("codewords.png").is_file());
}

#[test]
fn training_goes_on_when_nobody_listens_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let data = street(&folder.path().join("data"));
    let run = folder.path().join("run");
    let mut command = training(&data, &run);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert!(child.wait().unwrap().success());
    assert_eq!(steps(&run).len(), 2 * 8);
    assert!(run.join("report.html").is_file());
}

#[test]
fn what_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = street(&folder.path().join("data"));
    let run = folder.path().join("run");
    fail(training(&data, &run).args(["--set", "model.classes=3"]), 2, &["model.classes", "is 3", "has 2"]);
    fail(training(&data, &run).args(["--set", "model.codes=3"]), 2, &["codes"]);
    fail(training(&data, &run).args(["--set", "loss.se=-1.0"]), 2, &["loss.se"]);
    fail(training(&data, &run).args(["--set", "data.train=\"night\""]), 2, &["night"]);
    fail(
        training(&data, &run).args(["--set", "init.backbone=\"nothing.safetensors\""]),
        2,
        &["nothing.safetensors"],
    );
    fail(training(&data, &run).args(["--set", "init.backbone=\"hf:x\""]), 2, &["hf:x"]);
    fail(encnet("predict").arg("--weights").arg("nothing.pth").arg("a.jpg"), 2, &["nothing.pth"]);

    let mask = data.join("labels/train/3.png");
    let map = LabelMap::new(32, 24, vec![7; 32 * 24]).unwrap();
    fs::write(&mask, encode_indexed(&map, &[[0; 3]; 8]).unwrap()).unwrap();
    fail(&mut training(&data, &run), 2, &["3.png", "7"]);
    fs::remove_file(&mask).unwrap();
    fail(&mut training(&data, &run), 2, &["3.png"]);
}
