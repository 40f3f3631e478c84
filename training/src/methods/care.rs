//! CARE (Weigert et al., Nature Methods 2018): a residual U-Net trained on pairs with the mean absolute error and Adam.
//! Deviations from CSBDeep: the learning rate follows a cosine over a fixed number of steps instead of being halved on
//! plateaus; the reference may be matched in gain and offset to its input (`data.match_intensity`); the weights may be
//! averaged (`train.ema`).

use super::{Batch, Losses, Method, State, learner::Learner, training_kind};
use crate::config::Config;
use crate::losses;
use crate::nets::{Net, unet::UNet};
use anyhow::Result;
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use tch::{Device, Kind};

/// CARE.
#[derive(Debug)]
pub struct Care {
    generator: Learner<UNet>,
    kind: Kind,
}

impl Care {
    /// Fresh weights from the config's seed.
    pub fn new(config: &Config, device: Device) -> Self {
        let net = |path: &tch::nn::Path| {
            UNet::new(path, &config.net, config.tasks.len(), &mut Pcg64Mcg::seed_from_u64(config.seed))
        };
        let generator = Learner::new(device, config.train.ema, 0.9, net).keeping(config.kept());
        Self { generator, kind: training_kind(config.train.precision, device) }
    }
}

impl Method for Care {
    fn begin_with(&mut self, weights: &State) -> Result<()> {
        self.generator.begin_with(weights)
    }

    fn step(&mut self, batch: &Batch, learning_rate: f64) -> Losses {
        let restored = self.generator.net().forward(&batch.input, batch.task, self.kind);
        let loss = losses::l1(&restored, &batch.target, &batch.weight);
        loss.backward();
        self.generator.step(learning_rate);
        vec![("loss", loss.detach())]
    }

    fn generator(&self) -> &dyn Net {
        self.generator.result()
    }

    fn state(&self) -> State {
        let mut state = State::new();
        self.generator.add_state("generator", &mut state);
        state
    }
}
