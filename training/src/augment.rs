//! Clean images + trained CIN-GAN → pairs to train a restorer on: every clean image (and every reference of a real pair)
//! is degraded a few times, and each result is normalised as the engine would normalise it, with the clean image fitted
//! to it in gain and offset. They are made once, before the first step, from the config's seed.

use crate::config::{Augment, Config};
use crate::pairs::{Images, Pair, Plane, match_intensity, normalized};
use crate::synthesize::Synthesizer;
use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use std::path::Path;
use tch::Device;

/// Adds synthetic pairs to the real ones; weights are such that `fraction` of the patches will be synthetic.
///
/// # Errors
/// Where the run cannot be used, or there is nothing to degrade.
pub fn augment(images: &mut Images, settings: &Augment, config: &Config, device: Device) -> Result<()> {
    let synthesizer = Synthesizer::load(Path::new(&settings.run), device).context("augment.run")?;
    // Clean images are on the scale that the generator knows, its results on that of the restorer.
    let learnt_data = &synthesizer.config.data;
    let mut rng = Pcg64Mcg::seed_from_u64(config.seed ^ 0x05EE_DA06);
    for (task, name) in config.tasks.iter().enumerate() {
        let learnt = synthesizer.config.task_index(*name).context("augment.run")?;
        let mut clean: Vec<(String, f64, Plane)> = Vec::new();
        for single in images.clean.iter().filter(|single| single.task == task) {
            clean.push((single.name.clone(), single.weight, normalized(single.plane.clone(), learnt_data)?));
        }
        for pair in images.pairs.iter().filter(|pair| pair.task == task) {
            clean.push((pair.name.clone(), pair.weight, normalized(pair.target.clone(), learnt_data)?));
        }
        ensure!(
            !clean.is_empty(),
            "[augment] found no clean image of task {name} to degrade (clean/NAME.tif, or the references of pairs)"
        );
        let real: f64 = images.pairs.iter().filter(|pair| pair.task == task).map(|pair| pair.weight).sum();
        let synthetic: f64 = clean.iter().map(|(_, weight, _)| weight * settings.samples as f64).sum();
        let factor = if real > 0.0 { settings.fraction / (1.0 - settings.fraction) * real / synthetic } else { 1.0 };
        for (name, weight, plane) in clean {
            for number in 0..settings.samples {
                let input = normalized(synthesizer.degrade(&plane, learnt, &mut rng), &config.data)?;
                let mut target = plane.clone();
                if config.data.matches_intensity(config.tasks[task]) {
                    match_intensity(&mut target.samples, &input.samples)?;
                }
                let name = format!("{name}, synthetic {number}");
                images.pairs.push(Pair { name, weight: weight * factor, task, input, target });
            }
        }
    }
    images.clean.clear();
    Ok(())
}
