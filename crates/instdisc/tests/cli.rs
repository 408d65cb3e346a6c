//! The program as people run it: exact resume, and errors that name what is wrong.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use vision_image::Image;

/// Folders of small pictures: 2 classes of 12 to train, 2 of 4 to test.
fn pictures(root: &Path) -> PathBuf {
    for (split, count) in [("train", 12u32), ("test", 4)] {
        for (class, tone) in [("dark", 40u32), ("light", 160)] {
            let folder = root.join(split).join(class);
            fs::create_dir_all(&folder).unwrap();
            for n in 0..count {
                let data = (0..16 * 16 * 3u32).map(|i| (tone + (i * (n + 3) * 7) % 61) as u8).collect();
                Image::new(16, 16, 3, data).unwrap().save(folder.join(format!("{n}.png"))).unwrap();
            }
        }
    }
    root.to_owned()
}

fn instdisc() -> Command {
    Command::new(env!("CARGO_BIN_EXE_instdisc"))
}

fn training(data: &Path, out: &Path) -> Command {
    let mut command = instdisc();
    command.args(["train", "--config", "sample", "--no-expect", "--threads", "2"]);
    for set in [
        "data.name=folder",
        "data.batch_size=8",
        "model.width=4",
        "run.epochs=4",
        "run.log_every_steps=1",
        "run.eval_every_epochs=0",
        "run.checkpoint_every_steps=2",
        "eval.sheet_queries=0",
        "eval.baselines=false",
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

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

fn fail(command: &mut Command, code: i32, words: &[&str]) {
    let output = command.output().unwrap();
    let message = text(&output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is missing in: {message}");
    }
}

/// Every logged loss with its step, as written.
fn losses(out: &Path) -> Vec<String> {
    fs::read_to_string(out.join("metrics.jsonl"))
        .unwrap()
        .lines()
        .filter(|line| line.contains("\"loss\""))
        .map(str::to_owned)
        .collect()
}

fn last_model(out: &Path) -> Vec<u8> {
    let newest = fs::read_dir(out.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("model.safetensors").is_file())
        .max_by_key(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.rsplit('-').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
        })
        .unwrap();
    fs::read(newest.join("model.safetensors")).unwrap()
}

#[test]
fn an_interrupted_run_equals_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(&folder.path().join("data"));
    let whole = folder.path().join("whole");
    succeed(&mut training(&data, &whole));
    assert_eq!(losses(&whole).len(), 12);

    // Stopped in the middle of an epoch.
    let parts = folder.path().join("parts");
    succeed(training(&data, &parts).args(["--set", "run.max_steps=5"]));
    assert_eq!(losses(&parts), losses(&whole)[..5]);
    succeed(training(&data, &parts).arg("--resume"));
    assert_eq!(losses(&parts), losses(&whole));
    assert!(last_model(&parts) == last_model(&whole));

    // Stopped by a signal: SIGINT saves first, SIGKILL leaves the last checkpoint.
    for signal in ["-INT", "-KILL"] {
        let out = folder.path().join(format!("signal{signal}"));
        let mut child = training(&data, &out)
            .args(["--set", "run.epochs=4"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while !fs::read_to_string(out.join("metrics.jsonl")).is_ok_and(|log| log.contains("\"step\":3,")) {
            assert!(start.elapsed() < Duration::from_secs(60), "no third step");
            if child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // The run may have ended by itself on a fast machine; resuming must then change nothing.
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).status();
        child.wait().unwrap();
        succeed(training(&data, &out).arg("--resume"));
        assert_eq!(losses(&out), losses(&whole), "{signal}");
        assert!(last_model(&out) == last_model(&whole), "{signal}");
    }
}

#[test]
fn a_checkpoint_of_another_configuration_or_data_set_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(&folder.path().join("data"));
    let out = folder.path().join("run");
    succeed(training(&data, &out).args(["--set", "run.max_steps=2"]));
    let before = last_model(&out);
    fail(training(&data, &out).args(["--resume", "--set", "sgd.lr=0.5"]), 2, &["sgd.lr", "checkpoint"]);
    fail(&mut training(&data, &out), 2, &["--resume"]);
    fs::remove_file(data.join("train/dark/0.png")).unwrap();
    fail(training(&data, &out).arg("--resume"), 2, &["data"]);
    assert!(last_model(&out) == before);
}

#[test]
fn bad_input_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(&folder.path().join("data"));
    let out = folder.path().join("run");
    fail(
        training(&data, &out).args(["--set", "loss.temprature=0.1"]),
        2,
        &["loss.temprature", "temperature"],
    );
    fail(training(&data, &out).args(["--set", "loss.temperature=0"]), 2, &["loss.temperature"]);
    fail(instdisc().args(["train", "--config", "no-such-preset"]), 2, &["no-such-preset", "cifar10"]);
    fail(training(&data, &out).args(["--device", "cuda"]), 2, &["CUDA"]);
    fail(&mut training(&folder.path().join("nowhere"), &out), 2, &["nowhere"]);

    let config = folder.path().join("mine.toml");
    fs::write(&config, "base = \"sample\"\n[bank]\nmomentun = 0.5\n").unwrap();
    fail(instdisc().args(["train", "--config"]).arg(&config), 2, &["mine.toml", "bank.momentun", "momentum"]);

    let victim = data.join("train/light/3.png");
    let jpeg = data.join("train/light/3.jpg");
    let picture = vision_image::open(&victim).unwrap();
    picture.save(&jpeg).unwrap();
    fs::remove_file(&victim).unwrap();
    let bytes = fs::read(&jpeg).unwrap();
    fs::write(&jpeg, &bytes[..bytes.len() / 2]).unwrap();
    fail(&mut training(&data, &out), 2, &["3.jpg"]);
    fs::remove_file(&jpeg).unwrap();

    fs::create_dir(data.join("train/empty")).unwrap();
    fail(&mut training(&data, &folder.path().join("run2")), 2, &["empty"]);

    let cifar = folder.path().join("sets/cifar10");
    fs::create_dir_all(&cifar).unwrap();
    for n in 1..=5 {
        fs::write(cifar.join(format!("data_batch_{n}.bin")), vec![0u8; 3073 * 4]).unwrap();
    }
    fs::write(cifar.join("test_batch.bin"), vec![0u8; 3073]).unwrap();
    fs::write(cifar.join("data_batch_2.bin"), vec![0u8; 3073 * 4 - 5]).unwrap();
    let mut command = instdisc();
    command.args(["train", "--config", "cifar10", "--data"]).arg(folder.path().join("sets"));
    fail(command.arg("--out").arg(folder.path().join("run3")), 2, &["data_batch_2.bin"]);
}

#[test]
fn pictures_can_be_indexed_and_searched() {
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(&folder.path().join("data"));
    let out = folder.path().join("run");
    succeed(training(&data, &out).args(["--set", "run.max_steps=2"]));
    let index = folder.path().join("all.safetensors");
    succeed(
        instdisc().arg("index").arg(data.join("train")).arg("--weights").arg(&out).arg("--out").arg(&index),
    );
    let query = data.join("train/dark/5.png");
    let sheet = folder.path().join("sheet.png");
    let mut search = instdisc();
    search.args(["search", "--json", "--top", "3", "--index"]).arg(&index).arg("--weights").arg(&out);
    let found = search.arg("--sheet").arg(&sheet).arg(&query).output().unwrap();
    assert!(found.status.success(), "{}", text(&found));
    let found = String::from_utf8(found.stdout).unwrap();
    let found: serde_json::Value = serde_json::from_str(found.lines().next().unwrap()).unwrap();
    let first = &found["neighbours"][0];
    assert_eq!(first["name"], query.display().to_string());
    assert!((first["score"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    assert_eq!(found["neighbours"].as_array().unwrap().len(), 3);
    assert!(vision_image::open(&sheet).unwrap().width() > 300);

    fail(
        instdisc().args(["search", "--index"]).arg(&query).arg("--weights").arg(&out).arg(&query),
        2,
        &["5.png"],
    );
    fail(instdisc().arg("index").arg(data.join("train")).arg("--weights").arg(&out), 2, &["--out"]);
    let features = folder.path().join("features.jsonl");
    succeed(instdisc().arg("predict").arg(&query).arg("--weights").arg(&out).arg("--out").arg(&features));
    let line = fs::read_to_string(features).unwrap();
    let feature: serde_json::Value = serde_json::from_str(line.trim()).unwrap();
    assert_eq!(feature["feature"].as_array().unwrap().len(), 128);
}

#[test]
fn weights_under_the_names_of_other_programs_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(&folder.path().join("data"));
    let out = folder.path().join("run");
    succeed(training(&data, &out).args(["--set", "run.max_steps=1"]));
    let newest = fs::read_dir(out.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    let model = newest.map(|path| path.join("model.safetensors")).find(|path| path.is_file()).unwrap();
    let ours = vision_weights::open(&model).unwrap().state_dict().unwrap();

    // As the authors' program names them: no configuration, a prefix, `shortcut` for the projections.
    let mut theirs = vision_weights::StateDict::new();
    for (name, array) in ours.iter() {
        theirs.insert(format!("state_dict.module.{}", name.replace("downsample", "shortcut")), array.clone());
    }
    let foreign = folder.path().join("foreign.safetensors");
    theirs.save(&foreign).unwrap();

    let exported = folder.path().join("exported.safetensors");
    let config = out.join("config.toml");
    let mut export = instdisc();
    export.arg("export").arg("--weights").arg(&foreign).arg("--config").arg(&config);
    succeed(export.arg("--out").arg(&exported));
    let back = vision_weights::open(&exported).unwrap().state_dict().unwrap();
    for (name, array) in ours.iter() {
        assert_eq!(back.require(name).unwrap(), array, "{name}");
    }
    let mut start = training(&data, &folder.path().join("second"));
    succeed(start.args(["--set", "run.max_steps=1", "--weights"]).arg(&foreign));

    theirs.insert("state_dict.module.extra", back.require("fc.bias").unwrap().clone());
    theirs.save(&foreign).unwrap();
    let mut start = training(&data, &folder.path().join("third"));
    fail(start.arg("--weights").arg(&foreign), 2, &["extra"]);
}
