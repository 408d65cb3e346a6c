//! Showing on a terminal, or in a plain log, how training goes.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::sinks::{Progress, Silent, StepInfo};

/// A line at least this often where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows training on stderr: a bar on a terminal, lines elsewhere, nothing if `quiet`.
pub fn terminal_progress(quiet: bool) -> Box<dyn Progress> {
    if quiet {
        Box::new(Silent)
    } else if std::io::stderr().is_terminal() {
        Box::new(Bar(ProgressBar::hidden()))
    } else {
        Box::new(Lines { total: 0, begun: Instant::now(), first: 0, last: None })
    }
}

struct Bar(ProgressBar);

impl Progress for Bar {
    fn start(&mut self, step: u64, total: u64) {
        const TEMPLATE: &str = "[{elapsed}] {bar:30} {pos}/{len} ({per_sec}) ETA {eta}  {msg}";
        self.0.set_length(total);
        self.0.set_position(step);
        self.0.reset_eta();
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            self.0.set_style(style);
        }
        self.0.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
    }

    fn step(&mut self, info: &StepInfo<'_>) {
        self.0.set_message(short(info));
        self.0.set_position(info.step);
    }

    fn message(&mut self, text: &str) {
        if self.0.is_hidden() { eprintln!("{text}") } else { self.0.println(text) }
    }

    fn finish(&mut self) {
        self.0.finish_and_clear();
    }
}

struct Lines {
    total: u64,
    begun: Instant,
    first: u64,
    last: Option<Instant>,
}

impl Progress for Lines {
    fn start(&mut self, step: u64, total: u64) {
        *self = Self { total, begun: Instant::now(), first: step, last: None };
    }

    fn step(&mut self, info: &StepInfo<'_>) {
        if self.last.is_some_and(|last| last.elapsed() < LINE_EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        let done = (info.step - self.first).max(1) as f64;
        let left = self.total.saturating_sub(info.step) as f64;
        let eta = self.begun.elapsed().as_secs_f64() / done * left;
        eprintln!("step {}/{}  {}  ETA {eta:.0} s", info.step, self.total, short(info));
    }

    fn message(&mut self, text: &str) {
        eprintln!("{text}");
    }

    fn finish(&mut self) {}
}

fn short(info: &StepInfo<'_>) -> String {
    format!(
        "epoch {}  loss {:.4}  lr {:.2e}  {:.0} img/s  wait {:.0}%",
        info.epoch,
        info.loss,
        info.lr,
        info.images_per_second,
        info.data_wait * 100.0
    )
}
