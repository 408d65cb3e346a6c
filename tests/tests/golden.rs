//! Every committed case, in chunks so that the harness runs them side by side.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::PathBuf;

use conformance::{GOLDEN, Options, Status, find_cases, ops, run_case, run_paths};

fn run(part: usize, parts: usize) {
    let cases = find_cases(&[PathBuf::from(GOLDEN)]).unwrap();
    assert!(cases.len() >= 100, "only {} committed cases", cases.len());
    let mut problems = Vec::new();
    for path in cases.iter().skip(part).step_by(parts) {
        let result = run_case(path, &Options::default().device);
        if result.status != Status::Ok {
            problems.push(format!(
                "{:?} {} {}: {} {}",
                result.status,
                result.op,
                path.display(),
                result.problem,
                result.deviation.place
            ));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn committed_cases_first_half() {
    run(0, 2);
}

#[test]
fn committed_cases_second_half() {
    run(1, 2);
}

/// Results and gradients, closer than the cases themselves ask.
#[test]
fn bilinear_resizing_is_within_a_millionth_of_pytorch() {
    let mut cases = find_cases(&[PathBuf::from(GOLDEN).join("interpolate")]).unwrap();
    cases.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("bilinear_"));
    assert!(cases.len() >= 9, "only {} cases", cases.len());
    for path in cases {
        let result = run_case(&path, &Options::default().device);
        assert_eq!(result.status, Status::Ok, "{}: {}", path.display(), result.problem);
        let off = result.deviation.absolute;
        assert!(off <= 1e-6, "{}: {off} {}", path.display(), result.deviation.place);
    }
}

#[test]
fn every_row_has_a_case() {
    for op in ops() {
        let folder = PathBuf::from(GOLDEN).join(op.name);
        let wide = op.models_only || folder.is_dir();
        assert!(wide, "no committed case runs {}", op.name);
    }
}

#[test]
fn a_missing_path_and_an_empty_folder_are_errors() {
    let options = Options::default();
    assert!(run_paths(&[PathBuf::from("no/such/folder")], &options, |_| {}).is_err());
    let empty = tempfile::tempdir().unwrap();
    assert!(run_paths(&[empty.path().to_path_buf()], &options, |_| {}).is_err());
}

#[test]
fn unknown_ops_and_broken_files_are_results() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = vision_weights::StateDict::new();
    state.insert_metadata("op", "no_such_op");
    state.insert("in.x", vision_weights::Array::from_f32([1], &[1.0]).unwrap());
    let unknown = folder.path().join("unknown.safetensors");
    state.save(&unknown).unwrap();
    let broken = folder.path().join("broken.safetensors");
    std::fs::write(&broken, b"not a case").unwrap();
    let results = run_paths(&[folder.path().to_path_buf()], &Options::default(), |_| {}).unwrap();
    assert_eq!(results.iter().map(|r| r.status).collect::<Vec<_>>(), [Status::Fail, Status::Unknown]);
}

/// A wrong value, an argument nobody reads and an error that does not come all fail.
#[test]
fn the_runner_notices() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.safetensors");
    let check = |want: f32, args: &str, expect_error: Option<&str>| {
        let mut state = vision_weights::StateDict::new();
        state.insert_metadata("op", "relu");
        state.insert_metadata("args", args);
        if let Some(text) = expect_error {
            state.insert_metadata("expect_error", text);
        }
        state.insert("in.input", vision_weights::Array::from_f32([1], &[2.0]).unwrap());
        state.insert("out.output", vision_weights::Array::from_f32([1], &[want]).unwrap());
        state.save(&path).unwrap();
        run_case(&path, &Options::default().device).status
    };
    assert_eq!(check(2.0, "{}", None), Status::Ok);
    assert_eq!(check(2.5, "{}", None), Status::Fail);
    assert_eq!(check(2.0, r#"{"inplace": true}"#, None), Status::Fail);
    assert_eq!(check(2.0, "{}", Some("anything")), Status::Fail);
}

/// Gradients are compared too, in every layout.
#[test]
fn the_runner_notices_gradients() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.safetensors");
    let check = |gradient: f32, layout: &str| {
        let mut state = vision_weights::StateDict::new();
        state.insert_metadata("op", "relu");
        state.insert_metadata("args", format!(r#"{{"layout": "{layout}"}}"#));
        let mut put = |name: &str, values: [f32; 6]| {
            state.insert(name, vision_weights::Array::from_f32([2, 3], &values).unwrap());
        };
        put("in.input", [1.0, -1.0, 2.0, -2.0, 3.0, -3.0]);
        put("out.output", [1.0, 0.0, 2.0, 0.0, 3.0, 0.0]);
        put("gradout.output", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        put("grad.in.input", [1.0, 0.0, 3.0, 0.0, gradient, 0.0]);
        state.save(&path).unwrap();
        run_case(&path, &Options::default().device).status
    };
    for layout in ["contiguous", "transposed", "sliced"] {
        assert_eq!(check(5.0, layout), Status::Ok, "{layout}");
        assert_eq!(check(5.5, layout), Status::Fail, "{layout}");
    }
    assert_eq!(check(5.0, "sideways"), Status::Fail);
}
