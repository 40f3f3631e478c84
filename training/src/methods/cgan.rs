//! cGAN: a U-Net restorer trained on pairs against a discriminator that sees the degraded image beside the candidate
//! (pix2pix: Isola et al., CVPR 2017), after Razdaibiedina et al. 2019, who add a content loss:
//! `L_G = λ_pixel·pixel + λ_ssim·(1 − SSIM) + λ_content·content + λ_features·matching + λ_adversarial·GAN(D(x, G(x)))`,
//! each term with its switch in `[loss]`; what has the factor 0 is not computed, and without a term that needs it there is
//! no discriminator. Several tasks may share the generator, with gains and offsets of their own; each task has its own
//! discriminator.
//!
//! Deviations from pix2pix: the generator is CARE's U-Net, without batch normalisation (no layer takes statistics of the
//! image, so tiles have no seams) and without dropout (a restoration is no lottery); least squares take the place of cross
//! entropy; the generator's Adam has β₁ 0.9 instead of 0.5, its learning rate a cosine; weights may be averaged. Deviations
//! from Razdaibiedina et al.: VGG16 is one choice of content and needs its weights (`gan.vgg16`); the default uses the
//! pixels, their structural similarity and the discriminator's features.

use super::{Batch, Losses, Method, State, learner::Learner, training_kind};
use crate::config::{Config, Gan, Loss, PixelLoss};
use crate::losses::{self, GanLoss};
use crate::nets::patch_discriminator::PatchDiscriminator;
use crate::nets::{Net, unet::UNet, vgg16::Vgg16};
use anyhow::Result;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tch::{Device, Kind, Tensor, nn};

/// A range below this, in units of the normalised image, would make SSIM a measure of noise.
const LEAST_RANGE: f64 = 0.2;

/// cGAN.
#[derive(Debug)]
pub struct Cgan {
    generator: Learner<UNet>,
    /// One a task; none where no loss asks for it.
    discriminators: Vec<Learner<PatchDiscriminator>>,
    vgg: Option<Vgg16>,
    loss: Loss,
    device: Device,
    kind: Kind,
}

impl Cgan {
    /// Fresh weights from the config's seed.
    pub fn new(config: &Config, device: Device) -> Self {
        let (tasks, loss, Gan { beta_1, discriminator, .. }) = (config.tasks.len(), &config.loss, &config.gan);
        let mut rng = Pcg64Mcg::seed_from_u64(config.seed);
        let mut net_rng = Pcg64Mcg::seed_from_u64(rng.random());
        let net = |path: &nn::Path| UNet::new(path, &config.net, tasks, &mut rng.clone());
        let generator = Learner::new(device, config.train.ema, 0.9, net).keeping(config.kept());
        let judges = if loss.is_adversarial() { tasks } else { 0 };
        let mut judge = |path: &nn::Path| PatchDiscriminator::new(path, 2, discriminator, &mut net_rng);
        let discriminators = (0..judges).map(|_| Learner::new(device, 0.0, *beta_1, &mut judge)).collect();
        let kind = training_kind(config.train.precision, device);
        Self { generator, discriminators, vgg: None, loss: loss.clone(), device, kind }
    }

    /// One step of the task's discriminator, which sees the restored image without its history.
    fn step_discriminator(&mut self, batch: &Batch, restored: &Tensor, learning_rate: f64) -> Losses {
        let discriminator = &mut self.discriminators[batch.task];
        let judge =
            |image: &Tensor| discriminator.net().forward(&Tensor::cat(&[&batch.input, image], 1), self.kind).scores;
        let real = GanLoss::Lsgan.real(&judge(&batch.target));
        let fake = GanLoss::Lsgan.fake(&judge(&restored.detach()));
        ((&real + &fake) * 0.5).backward();
        discriminator.step(learning_rate * self.loss.discriminator_rate);
        vec![("loss_d_real", real.detach()), ("loss_d_fake", fake.detach())]
    }
}

impl Method for Cgan {
    fn prepare(&mut self, config: &Config) -> Result<()> {
        if self.loss.lambda_content > 0.0 {
            self.vgg = Some(config.gan.load_vgg16(self.device, self.kind)?);
        }
        Ok(())
    }

    fn begin_with(&mut self, weights: &State) -> Result<()> {
        self.generator.begin_with(weights)
    }

    fn step(&mut self, batch: &Batch, learning_rate: f64) -> Losses {
        let Batch { input, target, weight, task } = batch;
        let restored = self.generator.net().forward(input, *task, self.kind);
        let adversarial = !self.discriminators.is_empty();
        let judged = if adversarial { self.step_discriminator(batch, &restored, learning_rate) } else { vec![] };

        let loss = &self.loss;
        let pixel = match loss.pixel {
            PixelLoss::L1 => losses::l1(&restored, target, weight),
            PixelLoss::L2 => losses::l2(&restored, target, weight),
            PixelLoss::Psnr => losses::psnr(&restored, target, weight),
        };
        let mut terms = vec![("loss_pixel", loss.lambda_pixel, pixel)];
        if loss.lambda_ssim > 0.0 {
            let range = (target.amax([1, 2, 3], true) - target.amin([1, 2, 3], true)).clamp_min(LEAST_RANGE);
            terms.push(("loss_ssim", loss.lambda_ssim, losses::ssim(&restored, target, &range, weight)));
        }
        if let Some(vgg) = &self.vgg {
            let content = losses::content(&vgg.features(target), &vgg.features(&restored));
            terms.push(("loss_content", loss.lambda_content, content));
        }
        if adversarial {
            let discriminator = &mut self.discriminators[*task];
            discriminator.freeze();
            let judge = |image: &Tensor| discriminator.net().forward(&Tensor::cat(&[input, image], 1), self.kind);
            let fake = judge(&restored);
            terms.push(("loss_g_gan", loss.lambda_adversarial, GanLoss::Lsgan.generator(&fake.scores)));
            if loss.lambda_features > 0.0 {
                let matching = losses::feature_matching(&judge(target).features, &fake.features);
                terms.push(("loss_features", loss.lambda_features, matching));
            }
        }
        let total: Tensor = terms.iter().map(|(_, lambda, term)| term * *lambda).sum();
        total.backward();
        self.generator.step(learning_rate);
        if adversarial {
            self.discriminators[*task].unfreeze();
        }
        judged.into_iter().chain(terms.into_iter().map(|(name, _, term)| (name, term.detach()))).collect()
    }

    fn generator(&self) -> &dyn Net {
        self.generator.result()
    }

    fn state(&self) -> State {
        let mut state = State::new();
        self.generator.add_state("generator", &mut state);
        for (task, discriminator) in self.discriminators.iter().enumerate() {
            discriminator.add_state(&format!("discriminator.{task}"), &mut state);
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{batch, changed, smoke};
    use super::*;

    const ADVERSARIAL: [&str; 2] = ["loss.lambda_adversarial=0.1", "loss.lambda_features=0.1"];

    #[test]
    fn generator_and_discriminator_learn_apart() {
        let mut method = Cgan::new(&smoke("cgan", &ADVERSARIAL), Device::Cpu);
        let batch = batch(32);
        let restored = method.generator.net().forward(&batch.input, 0, Kind::Float);
        let untouched = changed(&method.state());
        method.step_discriminator(&batch, &restored, 1e-3);
        assert_eq!(untouched(&method.state()), ["discriminator"]);
        let untouched = changed(&method.state());
        method.step(&batch, 0.0);
        // At a learning rate of 0 only what is no weight moves: moments and numbers of steps. No gradient is left over.
        assert_eq!(untouched(&method.state()), ["discriminator", "generator"]);
        for (name, tensor) in method.state() {
            let gradient = tensor.grad();
            assert!(!gradient.defined() || gradient.abs().max().double_value(&[]) == 0.0, "{name}");
        }
    }

    #[test]
    fn what_is_kept_of_the_base_lies_in_the_average() {
        let mut method = Cgan::new(&smoke("cgan", &["train.ema=1e-6", "train.keep=0.25", "base=denoise"]), Device::Cpu);
        let part = |method: &Cgan, part: &str| -> State {
            let prefix = format!("generator.{part}.");
            let named = |(name, tensor): (String, Tensor)| {
                Some((name.strip_prefix(&prefix)?.to_owned(), tensor.detach().copy()))
            };
            method.state().into_iter().filter_map(named).collect()
        };
        let base: State = part(&method, "net").into_iter().map(|(name, tensor)| (name, tensor * 1.5 + 0.01)).collect();
        method.begin_with(&base).unwrap();
        method.step(&batch(32), 1e-2);
        let (learnt, averaged) = (part(&method, "net"), part(&method, "averaged"));
        assert_eq!(averaged.len(), base.len());
        for (name, base) in &base {
            assert!(!learnt[name].equal(base), "{name} has learnt");
            let expected = &learnt[name] * 0.75 + base * 0.25;
            let difference = (&averaged[name] - expected).abs().max().double_value(&[]);
            assert!(difference < 1e-5, "{name}: {difference}");
        }
    }

    #[test]
    fn every_term_has_a_switch_and_a_name() {
        let names = |changes: &[&str]| {
            let losses = Cgan::new(&smoke("cgan", changes), Device::Cpu).step(&batch(32), 1e-3);
            losses.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["loss_pixel"]);
        assert_eq!(names(&["loss.lambda_ssim=0.1"]), ["loss_pixel", "loss_ssim"]);
        let all = ["loss_d_real", "loss_d_fake", "loss_pixel", "loss_g_gan", "loss_features"];
        assert_eq!(names(&ADVERSARIAL), all);
    }
}
