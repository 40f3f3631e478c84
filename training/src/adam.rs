//! Adam (Kingma and Ba 2015) on tch tensors. tch's own optimiser cannot save its moments, without which a resumed run
//! would not continue as if it had never stopped.

use std::collections::BTreeMap;
use tch::{Kind, Tensor, nn};

const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

#[derive(Debug)]
struct Moments {
    variable: Tensor,
    first: Tensor,
    second: Tensor,
}

/// Moments of all variables of one store, by name.
#[derive(Debug)]
pub struct Adam {
    moments: BTreeMap<String, Moments>,
    beta_1: f64,
    /// Steps taken: a tensor, so that it is saved and loaded like the rest.
    steps: Tensor,
}

impl Adam {
    /// Zero moments for all trainable variables; `beta_1` is the decay of the first moment.
    pub fn new(weights: &nn::VarStore, beta_1: f64) -> Self {
        let moments = weights.variables().into_iter().filter(|(_, variable)| variable.requires_grad());
        let moments = moments.map(|(name, variable)| {
            let (first, second) = (variable.zeros_like(), variable.zeros_like());
            (name, Moments { variable, first: first.detach(), second: second.detach() })
        });
        Self { moments: moments.collect(), beta_1, steps: Tensor::from_slice(&[0i64]) }
    }

    /// Steps taken.
    pub fn steps(&self) -> i64 {
        self.steps.int64_value(&[0])
    }

    /// Moves the variables against their gradients, which are then cleared.
    pub fn step(&mut self, learning_rate: f64) {
        let _ = self.steps.g_add_scalar_(1);
        let t = self.steps() as i32;
        let rate = learning_rate / (1.0 - self.beta_1.powi(t));
        let correction = 1.0 / (1.0 - BETA_2.powi(t)).sqrt();
        tch::no_grad(|| {
            for Moments { variable, first, second } in self.moments.values_mut() {
                let gradient = variable.grad();
                if !gradient.defined() {
                    continue;
                }
                let gradient = gradient.to_kind(Kind::Float);
                let _ = first.lerp_(&gradient, 1.0 - self.beta_1);
                let _ = second.lerp_(&gradient.square(), 1.0 - BETA_2);
                let step = &*first * rate / (second.sqrt() * correction + EPSILON);
                let _ = variable.g_sub_(&step);
                variable.zero_grad();
            }
        });
    }

    /// Moments and number of steps; the tensors share memory with the optimiser.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let mut state = BTreeMap::from([("steps".to_owned(), self.steps.shallow_clone())]);
        for (name, moments) in &self.moments {
            state.insert(format!("first.{name}"), moments.first.shallow_clone());
            state.insert(format!("second.{name}"), moments.second.shallow_clone());
        }
        state
    }
}
