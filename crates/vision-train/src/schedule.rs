//! How the learning rate changes over time: a factor on the base rate, a pure function of the step.

use serde::{Deserialize, Serialize};

use crate::error::Problem;

/// A factor on the learning rate for every optimiser step, counted from 0.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Schedule {
    /// Always 1.
    Constant,
    /// Multiplied by `gamma` at each milestone, as `MultiStepLR` does.
    Step {
        /// First steps of the new rates, ascending.
        milestones: Vec<u64>,
        /// Factor per milestone.
        gamma: f64,
    },
    /// Half a cosine from 1 to `last`, as `CosineAnnealingLR` does; `last` from `total` on.
    Cosine {
        /// Steps from 1 to `last`.
        total: u64,
        /// Factor at the end.
        last: f64,
    },
    /// `(1 - step / total)^power`, as `PolynomialLR` does; 0 from `total` on.
    Poly {
        /// Steps from 1 to 0.
        total: u64,
        /// 1 is a straight line, 0.9 is usual in segmentation.
        power: f64,
    },
    /// Multiplied by `gamma` after every so many steps, as `ExponentialLR` (1 step) and `StepLR` do.
    Exponential {
        /// Steps of one rate; 0 counts as 1.
        every: u64,
        /// Factor each time.
        gamma: f64,
    },
    /// A straight line from `first` to `last`, as `LinearLR` does; `last` from `total` on.
    Linear {
        /// Steps from `first` to `last`.
        total: u64,
        /// Factor at step 0.
        first: f64,
        /// Factor at the end.
        last: f64,
    },
    /// A straight line from `start` to 1, multiplied with what follows. What follows counts its steps from
    /// the beginning of training, not from the end of the warm-up.
    WarmUp {
        /// Steps until the factor is 1.
        steps: u64,
        /// Factor at step 0.
        start: f64,
        /// The schedule that is warmed up.
        then: Box<Schedule>,
    },
}

impl Schedule {
    /// A [`Schedule::Step`] whose milestones are given in epochs.
    pub fn step_epochs(milestones: &[u64], gamma: f64, steps_per_epoch: u64) -> Self {
        let milestones = milestones.iter().map(|epoch| epoch.saturating_mul(steps_per_epoch)).collect();
        Self::Step { milestones, gamma }
    }

    /// A [`Schedule::Cosine`] over `epochs`.
    pub fn cosine_epochs(epochs: u64, last: f64, steps_per_epoch: u64) -> Self {
        Self::Cosine { total: epochs.saturating_mul(steps_per_epoch), last }
    }

    /// A [`Schedule::Poly`] over `epochs`.
    pub fn poly_epochs(epochs: u64, power: f64, steps_per_epoch: u64) -> Self {
        Self::Poly { total: epochs.saturating_mul(steps_per_epoch), power }
    }

    /// This schedule behind a warm-up of `steps`; unchanged if `steps` is 0.
    #[must_use]
    pub fn warmed_up(self, steps: u64, start: f64) -> Self {
        if steps == 0 { self } else { Self::WarmUp { steps, start, then: Box::new(self) } }
    }

    /// The factor for optimiser step `step`, counted from 0.
    pub fn factor(&self, step: u64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Step { milestones, gamma } => {
                let passed = milestones.iter().filter(|&&milestone| step >= milestone).count();
                gamma.powi(passed as i32)
            }
            Self::Cosine { total, last } => {
                if step >= *total {
                    return *last;
                }
                let progress = step as f64 / *total as f64;
                last + (1.0 - last) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
            Self::Poly { total, power } => {
                if step >= *total {
                    return 0.0;
                }
                (1.0 - step as f64 / *total as f64).powf(*power)
            }
            Self::Exponential { every, gamma } => gamma.powf((step / (*every).max(1)) as f64),
            Self::Linear { total, first, last } => line(step, *total, *first, *last),
            Self::WarmUp { steps, start, then } => line(step, *steps, *start, 1.0) * then.factor(step),
        }
    }
}

/// From `first` at step 0 to `last` at step `total`, where it stays.
fn line(step: u64, total: u64, first: f64, last: f64) -> f64 {
    if step >= total { last } else { first + (last - first) * step as f64 / total as f64 }
}

/// The shapes a configuration can ask for, in epochs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Shape {
    /// Always the base rate.
    #[default]
    Constant,
    /// Multiplied by `gamma` at the start of each epoch in `milestones`.
    Step {
        /// Epochs, ascending.
        milestones: Vec<u64>,
        /// Factor per milestone, above 0.
        gamma: f64,
    },
    /// Half a cosine over the whole run down to `last` times the base rate.
    Cosine {
        /// Factor at the end, 0 to 1.
        last: f64,
    },
    /// `(1 - progress)^power` over the whole run.
    Poly {
        /// Above 0; 0.9 is usual in segmentation.
        power: f64,
    },
    /// Multiplied by `gamma` after each epoch.
    Exponential {
        /// Factor per epoch, above 0.
        gamma: f64,
    },
    /// A straight line over the whole run down to `last` times the base rate.
    Linear {
        /// Factor at the end, 0 to 1.
        last: f64,
    },
}

/// `[schedule]` of a configuration: a shape and an optional warm-up, in epochs.
///
/// ```toml
/// [schedule]
/// shape = { kind = "step", milestones = [120, 160], gamma = 0.1 }
/// warm_up_epochs = 0.0
/// warm_up_start = 0.0
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// The shape after warm-up.
    pub shape: Shape,
    /// Length of the warm-up; parts of an epoch are allowed.
    pub warm_up_epochs: f64,
    /// Factor at the first step of the warm-up, 0 to 1.
    pub warm_up_start: f64,
}

impl ScheduleConfig {
    /// The schedule for a run of `epochs`.
    pub fn schedule(&self, epochs: u64, steps_per_epoch: u64) -> Schedule {
        let shape = match &self.shape {
            Shape::Constant => Schedule::Constant,
            Shape::Step { milestones, gamma } => Schedule::step_epochs(milestones, *gamma, steps_per_epoch),
            Shape::Cosine { last } => Schedule::cosine_epochs(epochs, *last, steps_per_epoch),
            Shape::Poly { power } => Schedule::poly_epochs(epochs, *power, steps_per_epoch),
            Shape::Exponential { gamma } => Schedule::Exponential { every: steps_per_epoch, gamma: *gamma },
            Shape::Linear { last } => {
                let total = epochs.saturating_mul(steps_per_epoch);
                Schedule::Linear { total, first: 1.0, last: *last }
            }
        };
        let warm_up = (self.warm_up_epochs * steps_per_epoch as f64).round().max(0.0) as u64;
        shape.warmed_up(warm_up, self.warm_up_start)
    }

    /// Checks ranges; `prefix` is the key of this table, such as `schedule`.
    pub fn problems(&self, prefix: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, key: &str, problem: &str| {
            if !ok {
                problems.push(Problem::new(format!("{prefix}.{key}"), problem));
            }
        };
        match &self.shape {
            Shape::Constant => {}
            Shape::Step { milestones, gamma } => {
                check(milestones.is_sorted(), "shape.milestones", "must be ascending");
                check(*gamma > 0.0 && gamma.is_finite(), "shape.gamma", "must be a positive finite number");
            }
            Shape::Poly { power } => {
                check(*power > 0.0 && power.is_finite(), "shape.power", "must be a positive finite number");
            }
            Shape::Exponential { gamma } => {
                check(*gamma > 0.0 && gamma.is_finite(), "shape.gamma", "must be a positive finite number");
            }
            Shape::Cosine { last } | Shape::Linear { last } => {
                check((0.0..=1.0).contains(last), "shape.last", "must lie in 0 to 1");
            }
        }
        check(
            self.warm_up_epochs >= 0.0 && self.warm_up_epochs.is_finite(),
            "warm_up_epochs",
            "must be 0 or a positive finite number",
        );
        check((0.0..=1.0).contains(&self.warm_up_start), "warm_up_start", "must lie in 0 to 1");
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-12, "{got} is not {want}");
    }

    #[test]
    fn steps_change_at_the_first_step_of_the_milestone() {
        let spe = 7;
        let schedule = Schedule::step_epochs(&[120, 160], 0.1, spe);
        let table =
            [(0, 1.0), (79, 1.0), (80, 1.0), (119, 1.0), (120, 0.1), (159, 0.1), (160, 0.01), (199, 0.01)];
        for (epoch, want) in table {
            close(schedule.factor(epoch * spe), want);
            close(schedule.factor(epoch * spe + spe - 1), want);
        }
    }

    /// ```python
    /// opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    /// s = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=8, eta_min=0.1)
    /// for i in range(9): print(s.get_last_lr()[0]); opt.step(); s.step()
    /// ```
    #[test]
    fn cosine_equals_pytorch() {
        let want = [
            1.0,
            0.9657457896300791,
            0.8681980515339464,
            0.7222075445642905,
            0.55,
            0.3777924554357097,
            0.2318019484660537,
            0.134254210369921,
            0.1,
        ];
        let schedule = Schedule::cosine_epochs(4, 0.1, 2);
        for (step, want) in want.into_iter().enumerate() {
            close(schedule.factor(step as u64), want);
        }
        close(schedule.factor(1000), 0.1);
    }

    #[test]
    fn warm_up_is_a_line_from_start_to_the_schedule() {
        let config = ScheduleConfig { warm_up_epochs: 0.5, warm_up_start: 0.2, ..ScheduleConfig::default() };
        let schedule = config.schedule(10, 8);
        for (step, want) in [(0, 0.2), (1, 0.4), (2, 0.6), (3, 0.8), (4, 1.0), (50, 1.0)] {
            close(schedule.factor(step), want);
        }
    }

    #[test]
    fn shapes_of_a_configuration_span_the_run() {
        let factors = |text: &str| {
            let config: ScheduleConfig = toml::from_str(text).unwrap();
            assert!(config.problems("schedule").is_empty());
            let schedule = config.schedule(4, 5);
            [0, 4, 5, 10, 19, 20, 99].map(|step| schedule.factor(step))
        };
        for (text, want) in [
            ("shape = { kind = \"poly\", power = 2.0 }", [1.0, 0.64, 0.5625, 0.25, 0.0025, 0.0, 0.0]),
            (
                "shape = { kind = \"exponential\", gamma = 0.5 }",
                [1.0, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.5_f64.powi(19)],
            ),
            ("shape = { kind = \"linear\", last = 0.2 }", [1.0, 0.84, 0.8, 0.6, 0.24, 0.2, 0.2]),
        ] {
            for (got, want) in factors(text).into_iter().zip(want) {
                close(got, want);
            }
        }
    }

    #[test]
    fn empty_runs_have_a_factor() {
        close(Schedule::cosine_epochs(0, 0.3, 0).factor(0), 0.3);
        close(Schedule::step_epochs(&[], 0.1, 5).factor(9), 1.0);
        close(Schedule::poly_epochs(0, 0.9, 0).factor(0), 0.0);
        close(Schedule::Exponential { every: 0, gamma: 0.5 }.factor(2), 0.25);
        close(Schedule::Linear { total: 0, first: 0.1, last: 0.7 }.factor(0), 0.7);
    }

    #[test]
    fn all_problems_are_reported() {
        let config = ScheduleConfig {
            shape: Shape::Step { milestones: vec![5, 3], gamma: -1.0 },
            warm_up_epochs: f64::NAN,
            warm_up_start: 2.0,
        };
        assert_eq!(config.problems("schedule").len(), 4);
        for shape in [
            Shape::Poly { power: 0.0 },
            Shape::Exponential { gamma: f64::INFINITY },
            Shape::Linear { last: -0.5 },
            Shape::Cosine { last: 2.0 },
        ] {
            let config = ScheduleConfig { shape, ..ScheduleConfig::default() };
            assert_eq!(config.problems("schedule").len(), 1, "{config:?}");
        }
    }
}
