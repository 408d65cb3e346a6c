//! The program `encnet-classify` as people run it: folders of pictures and CIFAR's files, exact resume, classes with their
//! probabilities, errors that name what is wrong.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use encnet::classify::Classifier;
use serde_json::Value;
use vision_image::Image;

const CLASSES: [&str; 3] = ["dark", "light", "striped"];

fn picture(class: usize, n: u32) -> Image {
    let pixels = (0..24 * 18u32).flat_map(|i| {
        let tone = [40, 200, if (i / 24) % 6 < 3 { 20 } else { 220 }][class] + (i * (n + 3) * 7) % 31;
        [tone as u8, (tone / 2) as u8, (tone / 3) as u8]
    });
    Image::new(24, 18, 3, pixels.collect()).unwrap()
}

/// Folders of classes: 6 pictures of each to train, 3 to test, wider than high.
fn pictures(root: &Path) -> PathBuf {
    for (part, first, count) in [("train", 0, 6u32), ("test", 6, 3)] {
        for (class, name) in CLASSES.iter().enumerate() {
            let folder = root.join(part).join(name);
            fs::create_dir_all(&folder).unwrap();
            for n in first..first + count {
                picture(class, n).save(folder.join(format!("{n}.png"))).unwrap();
            }
        }
    }
    root.to_owned()
}

fn program(verb: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_encnet-classify"));
    command.arg(verb);
    command
}

fn set(command: &mut Command, settings: &[&str]) {
    for setting in settings {
        command.args(["--set", setting]);
    }
}

fn training(data: &Path, out: &Path) -> Command {
    let mut command = program("train");
    command.args(["--config", "digits", "--no-expect", "--threads", "2"]);
    set(
        &mut command,
        &[
            "data.name=folder",
            "data.size=16",
            "data.batch_size=6",
            "data.augment=[{ op = \"pad_to\", width = 18, height = 18 }, { op = \"random_crop\", width = 16, height = 16 }]",
            "model.classes=3",
            "model.codes=2",
            "sgd.lr=0.05",
            "run.epochs=6",
            "run.log_every_steps=1",
            "run.eval_every_epochs=3",
            "run.checkpoint_every_steps=2",
        ],
    );
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

fn losses(out: &Path) -> Vec<String> {
    let log = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    log.lines().filter(|line| line.contains("\"loss\"")).map(str::to_owned).collect()
}

#[test]
fn from_a_folder_to_classes() {
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(&folder.path().join("data"));
    let run = folder.path().join("run");
    let said = succeed(&mut training(&data, &run));
    assert!(said.contains("top1") && said.contains("cross_entropy") && !said.contains("top5"), "{said}");
    assert_eq!(losses(&run).len(), 18);

    // Stopped in the middle of an epoch, the same steps follow, with the same draws of the scales.
    let parts = folder.path().join("parts");
    succeed(training(&data, &parts).args(["--set", "run.max_steps=7"]));
    assert_eq!(losses(&parts), losses(&run)[..7]);
    succeed(training(&data, &parts).arg("--resume"));
    assert_eq!(losses(&parts), losses(&run));
    let model = |run: &Path| fs::read(run.join("checkpoints/step-18/model.safetensors")).unwrap();
    assert!(model(&parts) == model(&run));

    // Measured again: the numbers of the end of the run, and a page.
    let measured = folder.path().join("measured");
    let eval = succeed(
        program("eval").arg("--weights").arg(run.join("checkpoints/last")).arg("--out").arg(&measured),
    );
    let top1 = |said: &str| -> f64 {
        let line = said.lines().find(|line| line.starts_with("top1")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    assert_eq!(top1(&eval), top1(&said));
    let page = fs::read_to_string(measured.join("report.html")).unwrap();
    assert!(CLASSES.iter().all(|class| page.contains(class)) && page.contains("confusion"));

    // Exported weights know the names of the classes and how a picture enters.
    let weights = folder.path().join("tones.safetensors");
    succeed(program("export").arg("--weights").arg(run.join("checkpoints/last")).arg("--out").arg(&weights));
    let found = folder.path().join("found.jsonl");
    let mut predict = program("predict");
    predict.arg("--weights").arg(&weights).arg("--out").arg(&found).args(["--top", "3"]);
    succeed(predict.arg(data.join("test")));
    let found = fs::read_to_string(found).unwrap();
    assert_eq!(found.lines().count(), 9);
    let mut right = 0;
    for line in found.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let classes = line["classes"].as_array().unwrap();
        let of = |at: usize| classes[at]["probability"].as_f64().unwrap();
        assert!((of(0) + of(1) + of(2) - 1.0).abs() < 1e-9 && of(0) >= of(1) && of(1) >= of(2), "{line}");
        let path = line["picture"].as_str().unwrap();
        right += usize::from(path.contains(&format!("/{}/", classes[0]["name"].as_str().unwrap())));
    }
    // A picture from a file becomes the same numbers as one of a set.
    assert!((right as f64 / 9.0 - top1(&said)).abs() < 1e-4, "{right} right, measured {}", top1(&said));

    let classifier = Classifier::load(&weights).unwrap();
    assert_eq!(classifier.class_names(), CLASSES);
    let large = vision_image::resize(&picture(1, 8), 50, 61, vision_image::Filter::Bilinear).unwrap();
    let both = classifier.classify(&[picture(0, 7), large]).unwrap();
    assert_eq!(both.len(), 2);
    let alone = &classifier.classify(&[picture(0, 7)]).unwrap()[0];
    for (found, alone) in both[0].iter().zip(alone) {
        assert!(found.name == alone.name && (found.probability - alone.probability).abs() < 1e-5);
    }
    assert!(classifier.classify(&[]).unwrap().is_empty());

    let said = succeed(
        program("predict")
            .arg("--weights")
            .arg(&weights)
            .args(["--top", "1", "--quiet"])
            .arg(data.join("test/dark/6.png")),
    );
    // Results are no messages.
    let line: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(line["classes"].as_array().unwrap().len(), 1);
}

/// Two batches of CIFAR-10 in its binary form, and what is missing or broken there.
#[test]
fn the_published_files_of_cifar() {
    let folder = tempfile::tempdir().unwrap();
    let set_folder = folder.path().join("sets/cifar10");
    fs::create_dir_all(&set_folder).unwrap();
    let records = |count: u32, first: u32| -> Vec<u8> {
        let record = |n: u32| {
            let label = (n % 10) as u8;
            std::iter::once(label).chain((0..3072u32).map(move |i| ((n % 10) * 20 + i * (n + 3) % 31) as u8))
        };
        (first..first + count).flat_map(record).collect()
    };
    for n in 1..=5 {
        fs::write(set_folder.join(format!("data_batch_{n}.bin")), records(4, n * 4)).unwrap();
    }
    fs::write(set_folder.join("test_batch.bin"), records(10, 90)).unwrap();
    let train = |out: &str| {
        let mut command = program("train");
        command.args(["--config", "cifar10", "--threads", "2", "--data"]).arg(folder.path().join("sets"));
        set(&mut command, &["model.widen=1", "model.codes=4", "data.batch_size=10", "run.max_steps=2"]);
        command.arg("--out").arg(folder.path().join(out));
        command
    };
    let said = succeed(&mut train("run"));
    assert!(said.contains("trained 2 steps") && said.contains("top5"), "{said}");
    let page = fs::read_to_string(folder.path().join("run/report.html")).unwrap();
    assert!(page.contains("airplane"), "the names of CIFAR's classes are missing");

    fail(train("other").args(["--set", "model.classes=9"]), 2, &["model.classes", "is 9", "has 10"]);
    fs::write(set_folder.join("data_batch_2.bin"), &records(4, 8)[5..]).unwrap();
    fail(&mut train("other"), 2, &["data_batch_2.bin"]);
    fs::remove_file(set_folder.join("data_batch_2.bin")).unwrap();
    fail(&mut train("other"), 2, &["data_batch_2.bin"]);
}

#[test]
fn what_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(&folder.path().join("data"));
    let run = folder.path().join("run");
    fail(training(&data, &run).args(["--set", "model.classes=4"]), 2, &["model.classes", "is 4", "has 3"]);
    fail(training(&data, &run).args(["--set", "model.widen=0"]), 2, &["model.widen"]);
    fail(training(&data, &run).args(["--set", "model.codse=1"]), 2, &["model.codse", "codes"]);
    fail(training(&data, &run).args(["--set", "data.name=cifar11"]), 2, &["cifar11", "digits"]);
    fail(&mut training(&folder.path().join("nowhere"), &run), 2, &["nowhere"]);
    fail(program("train").args(["--config", "cifar10"]).arg("--out").arg(&run), 2, &["cifar10"]);
    fail(program("predict").arg("a.png"), 2, &["--weights"]);
    fail(program("predict").arg("--weights").arg("nothing.pth").arg("a.png"), 2, &["nothing.pth"]);

    // A crop larger than the picture.
    let crop = "data.augment=[{ op = \"random_crop\", width = 20, height = 20 }]";
    fail(training(&data, &run).args(["--set", crop]), 2, &["random_crop", "20x20"]);

    fs::write(data.join("train/dark/0.png"), b"no picture").unwrap();
    fail(&mut training(&data, &run), 2, &["0.png"]);
}
