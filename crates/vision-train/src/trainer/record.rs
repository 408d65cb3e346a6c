//! Numbers of finished steps on their way to the sinks.

use super::session::Session;
use super::window::Meter;
use crate::error::Result;
use crate::recipe::Recipe;
use crate::sinks::{Row, StepInfo};
use crate::system;

impl<R: Recipe> Session<'_, R> {
    /// Sends the numbers of a finished step to the sinks.
    pub(super) fn record(
        &mut self,
        epoch: u64,
        losses: &[(String, f64)],
        meter: &mut Meter,
        ended: bool,
    ) -> Result<()> {
        let run = self.config();
        let step = self.position.step;
        let lr = R::optimiser(&self.resolved.config).lr() * self.schedule.factor(step - 1);
        for (name, value) in losses {
            self.window.add(name, *value);
        }
        let totals: Vec<f64> =
            losses.iter().filter(|(name, _)| name.starts_with("loss")).map(|(_, value)| *value).collect();
        let loss = totals.iter().sum::<f64>() / totals.len() as f64;
        let (images_per_second, data_wait) = (meter.images_per_second(), meter.data_wait());
        let mut logged = Vec::new();
        if ended || step.is_multiple_of(run.log_every_steps) {
            logged = self.window.take();
            let mut rows: Vec<(&str, String, f64)> =
                logged.iter().map(|(name, value)| ("train", name.clone(), *value)).collect();
            rows.push(("train", "lr".to_owned(), lr));
            rows.push(("system", "images_per_second".to_owned(), images_per_second));
            rows.push(("system", "data_wait".to_owned(), data_wait));
            if let Some(bytes) = system::peak_memory() {
                rows.push(("system", "peak_memory_mib".to_owned(), bytes as f64 / f64::from(1 << 20)));
            }
            self.log(epoch, rows)?;
            *meter = Meter::start();
        }
        tracing::debug!(step, loss, lr, "train_step");
        let info = StepInfo { step, epoch, loss, lr, images_per_second, data_wait, logged: &logged };
        self.progress.step(&info);
        Ok(())
    }

    /// Writes (split, name, value) to the metric log and to TensorBoard.
    pub(super) fn log(&mut self, epoch: u64, rows: Vec<(&str, String, f64)>) -> Result<()> {
        let step = self.position.step;
        // Only rank 0 writes; all know the same numbers.
        let Some(files) = &mut self.files else { return Ok(()) };
        for (split, name, value) in &rows {
            files.events.scalar(step, &format!("{split}/{name}"), *value)?;
        }
        let row = |(split, name, value): (&str, String, f64)| Row {
            step,
            epoch,
            split: split.to_owned(),
            name,
            value: value.is_finite().then_some(value),
        };
        files.metrics.append(rows.into_iter().map(row).collect())
    }
}
