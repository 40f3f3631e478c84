//! cGAN: a U-Net restorer trained on pairs (Isola et al., CVPR 2017: pix2pix).

use super::{Batch, Losses, Method, State, learner::Learner, training_kind};
use crate::config::{Config, Loss, PixelLoss};
use crate::losses;
use crate::nets::{Net, unet::UNet};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use tch::{Device, Kind};

/// cGAN.
#[derive(Debug)]
pub struct Cgan {
    generator: Learner<UNet>,
    loss: Loss,
    kind: Kind,
}

impl Cgan {
    /// Fresh weights from the config's seed.
    pub fn new(config: &Config, device: Device) -> Self {
        let net = |path: &tch::nn::Path| UNet::new(path, &config.net, &mut Pcg64Mcg::seed_from_u64(config.seed));
        let generator = Learner::new(device, config.train.ema, 0.9, net);
        Self { generator, loss: config.loss.clone(), kind: training_kind(config.train.precision, device) }
    }
}

impl Method for Cgan {
    fn step(&mut self, batch: &Batch, learning_rate: f64) -> Losses {
        let Loss { pixel, lambda_pixel, lambda_ssim } = self.loss;
        let Batch { target, weight, .. } = batch;
        let restored = self.generator.net().forward(&batch.input, self.kind);
        let pixel = match pixel {
            PixelLoss::L1 => losses::l1(&restored, target, weight),
            PixelLoss::L2 => losses::l2(&restored, target, weight),
        };
        let mut total = &pixel * lambda_pixel;
        let mut named = vec![("loss_pixel", pixel.detach())];
        if lambda_ssim > 0.0 {
            let range = (target.amax([1, 2, 3], true) - target.amin([1, 2, 3], true)).clamp_min(0.2);
            let ssim = losses::ssim(&restored, target, &range, weight);
            total = total + &ssim * lambda_ssim;
            named.push(("loss_ssim", ssim.detach()));
        }
        total.backward();
        self.generator.step(learning_rate);
        named
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
