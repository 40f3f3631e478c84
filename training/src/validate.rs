//! Validation: whole planes through the network in f32, scored under the protocol of `mdr evaluate`. The same planes at
//! every step, so that figures and pictures are comparable; they never reach training.

use crate::config::{Config, Split};
use crate::degrade;
use crate::methods::Method;
use crate::nets::on_plane;
use crate::pairs::{Entry, Images, Pair, Plane, normalized};
use crate::synthesize::{self, Statistics};
use anyhow::{Context, Result};
use mdr::metrics::{self, Scale, Scores, SsimWindow};
use mdr::montage::{Panel, montage};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use std::path::Path;
use tch::Device;

/// Larger planes are cropped around their middle to this side, in pixels.
const LARGEST_SIDE: usize = 512;
/// Pictures in a sample sheet, and their largest side.
const PICTURES: usize = 4;
const PICTURE_SIDE: usize = 256;

/// Planes to validate on.
#[derive(Debug)]
pub struct Validation {
    /// To restore; none for a method that synthesises.
    pairs: Vec<Pair>,
    /// To synthesise from, and what the result should be like, of each task.
    synthesis: Vec<Synthesis>,
    /// Of each task.
    counts: Vec<Count>,
}

#[derive(Debug)]
struct Synthesis {
    clean: Vec<Plane>,
    real: Vec<Plane>,
}

/// What a validation found.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The higher the better: affine PSNR in dB of restored planes, or minus the distance of synthetic planes from real
    /// ones.
    pub quality: f64,
    /// Of restored planes, in the order of [`Validation::pairs`].
    pub scores: Vec<Scores>,
    /// In words.
    pub text: String,
}

/// How many planes of a task were validated on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Planes of real pairs.
    pub pairs: usize,
    /// Windows of clean images or phantoms with simulated noise.
    pub simulated_windows: usize,
}

impl Count {
    /// In words, with the folders that the task's validation images lie in; `entries` are those of the run.
    pub fn describe(self, task: usize, config: &Config, entries: &[Entry]) -> String {
        let folders = |paired: bool| {
            let mut names: Vec<String> = Vec::new();
            let is_one = |entry: &&Entry| {
                entry.task == task
                    && entry.split == Split::Val
                    && entry.reference.is_some()
                    && entry.is_pair() == paired
            };
            for entry in entries.iter().filter(is_one) {
                // FOLDER/clean/NAME.tif or FOLDER/high/NAME.tif.
                let role = entry.path().parent().unwrap_or(Path::new(""));
                let folder = role.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(role);
                let name = folder.display().to_string();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            names
        };
        let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        let mut parts = Vec::new();
        if self.pairs > 0 {
            parts.push(format!("{} of {}", count(self.pairs, "real pair"), listed(&folders(true))));
        }
        if self.simulated_windows > 0 {
            let phantoms = config.simulate.as_ref().map_or(0.0, |simulate| simulate.phantoms);
            let mut sources = if phantoms < 1.0 { folders(false) } else { Vec::new() };
            if phantoms > 0.0 || sources.is_empty() {
                sources.push("phantoms".into());
            }
            parts.push(format!("{} of {}, simulated noise", count(self.simulated_windows, "window"), listed(&sources)));
        }
        let parts = if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") };
        format!("validation: {parts}")
    }
}

/// "a, b and c".
fn listed(names: &[String]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        names => names.concat(),
    }
}

impl Validation {
    /// Real pairs as they are; of clean images, windows degraded by a fixed seed. References without any contrast,
    /// which have no PSNR, are left out.
    ///
    /// # Errors
    /// Those of the simulation.
    pub fn new(config: &Config, images: Images) -> Result<Self> {
        if config.method.synthesises() {
            return Self::of_synthesis(config, images);
        }
        let mut pairs = Vec::new();
        for pair in images.pairs {
            let sides = [pair.input.y.min(LARGEST_SIDE), pair.input.x.min(LARGEST_SIDE)];
            let corner = [(pair.input.y - sides[0]) / 2, (pair.input.x - sides[1]) / 2];
            let (input, target) = (pair.input.crop(corner, sides), pair.target.crop(corner, sides));
            pairs.push(Pair { input, target, ..pair });
        }
        let real = pairs.len();
        if let Some(simulate) = config.simulate.as_ref().filter(|simulate| simulate.fraction > 0.0) {
            for number in 0..simulate.validation_windows {
                let clean = images.clean.get(number % images.clean.len().max(1));
                let choose = |_: &mut Pcg64Mcg| clean.map(|clean| &clean.plane);
                let mut rng = Pcg64Mcg::seed_from_u64(u64::MAX - number as u64);
                let window = degrade::window(choose, config.patches.size, simulate, &config.data, &mut rng)?;
                let name = format!("simulated window {number}");
                pairs.push(Pair { name, weight: 1.0, task: 0, input: window.input, target: window.target });
            }
        }
        let mut kept = Vec::new();
        let mut counts = vec![Count::default(); config.tasks.len()];
        for (number, pair) in pairs.into_iter().enumerate() {
            let percentile = |q| metrics::percentile(&pair.target.samples, q);
            if percentile(99.9)? > percentile(0.1)? {
                let count = &mut counts[pair.task];
                *(if number < real { &mut count.pairs } else { &mut count.simulated_windows }) += 1;
                kept.push(pair);
            }
        }
        Ok(Self { pairs: kept, synthesis: Vec::new(), counts })
    }

    /// Planes of pairs are taken apart.
    fn of_synthesis(config: &Config, images: Images) -> Result<Self> {
        let mut synthesis: Vec<Synthesis> =
            config.tasks.iter().map(|_| Synthesis { clean: Vec::new(), real: Vec::new() }).collect();
        let mut counts = vec![Count::default(); config.tasks.len()];
        for pair in images.pairs {
            counts[pair.task].pairs += 1;
            synthesis[pair.task].clean.push(normalized(pair.target, &config.data)?);
            synthesis[pair.task].real.push(pair.input);
        }
        for single in images.clean {
            synthesis[single.task].clean.push(normalized(single.plane, &config.data)?);
        }
        for single in images.degraded {
            synthesis[single.task].real.push(single.plane);
        }
        Ok(Self { pairs: Vec::new(), synthesis, counts })
    }

    /// Restores (or synthesises), measures, and writes the pictures; none where there is nothing to validate on.
    ///
    /// # Errors
    /// Where a result is not finite, or the picture cannot be written.
    pub fn measure(&self, method: &dyn Method, device: Device, picture: &Path) -> Result<Option<Measured>> {
        if self.synthesis.is_empty() {
            let restored = self.restore(method, device);
            let scores = self.scores(&restored)?;
            self.write_pictures(picture, &restored)?;
            return Ok(Scores::mean(&scores).map(|mean| Measured {
                quality: mean.psnr_affine,
                text: format!("{:.2} dB, SSIM {:.3}", mean.psnr_affine, mean.ssim_affine),
                scores,
            }));
        }
        let mut distances = Vec::new();
        let (mut clean, mut real, mut synthetic) = (Vec::new(), Vec::new(), Vec::new());
        for (task, images) in self.synthesis.iter().enumerate() {
            let mut rng = Pcg64Mcg::seed_from_u64(task as u64);
            let degrade = |plane| synthesize::degrade(method.generator(), plane, task, device, &mut rng);
            let made: Vec<Plane> = images.clean.iter().map(degrade).collect();
            if !made.is_empty() && !images.real.is_empty() {
                distances.push(Statistics::of(&images.real).distance(&Statistics::of(&made)).total());
                clean.push(images.clean[0].clone());
                real.push(images.real[0].clone());
                synthetic.push(made.into_iter().take(2).collect());
            }
        }
        if distances.is_empty() {
            return Ok(None);
        }
        synthesize::write_picture(picture, &clean, &real, &synthetic)?;
        let mean = distances.iter().sum::<f64>() / distances.len() as f64;
        Ok(Some(Measured { quality: -mean, scores: Vec::new(), text: format!("distance from real images {mean:.3}") }))
    }

    /// What there is to say of a task (an index) after a validation: how many planes of which kind, and the means of
    /// their figures, degraded and restored, which stand in the order of [`Validation::pairs`].
    pub fn figures(
        &self,
        task: usize,
        input: &[Scores],
        restored: &[Scores],
        config: &Config,
        entries: &[Entry],
    ) -> serde_json::Value {
        let mean = |scores: &[Scores]| {
            let of_task = self.pairs.iter().zip(scores).filter(|(pair, _)| pair.task == task);
            Scores::mean(&of_task.map(|(_, scores)| *scores).collect::<Vec<_>>())
        };
        let count = self.counts[task];
        let matched = if config.data.matches_intensity(config.tasks[task]) {
            "; before, gain and offset of the reference were fitted to its input, so that what is not affine is not \
             what mdr-train evaluate says"
        } else {
            ""
        };
        serde_json::json!({
            "data": count.describe(task, config, entries),
            "images": self.pairs.iter().filter(|pair| pair.task == task).count(),
            "pairs": count.pairs,
            "simulated_windows": count.simulated_windows,
            "protocol": format!(
                "reference scaled by its percentiles 0.1 and 99.9, data range 1, uniform 7x7 SSIM window; affine: after \
                 fitting gain and offset; of planes of more than {LARGEST_SIDE} pixels a side, the middle{matched}"
            ),
            "input": mean(input),
            "restored": mean(restored),
        })
    }

    /// The planes: real pairs, then simulated windows.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// Restores every plane.
    pub fn restore(&self, method: &dyn Method, device: Device) -> Vec<Plane> {
        self.pairs.iter().map(|pair| restore(method, &pair.input, pair.task, device)).collect()
    }

    /// Scores of restored planes, in the order of [`Validation::pairs`].
    ///
    /// # Errors
    /// Where a restored sample is not finite; the message names the image.
    pub fn scores(&self, restored: &[Plane]) -> Result<Vec<Scores>> {
        let pairs = self.pairs.iter().zip(restored);
        pairs.map(|(pair, restored)| score(restored, pair).with_context(|| pair.name.clone())).collect()
    }

    /// Scores of the degraded planes themselves.
    ///
    /// # Errors
    /// As [`Validation::scores`].
    pub fn input_scores(&self) -> Result<Vec<Scores>> {
        self.pairs.iter().map(|pair| score(&pair.input, pair).with_context(|| pair.name.clone())).collect()
    }

    /// Writes a sheet of pictures, each row degraded | restored | reference, each scaled by its own percentiles; none
    /// where there are no planes.
    ///
    /// # Errors
    /// Where a sample is not finite, or the file cannot be written.
    pub fn write_pictures(&self, path: &Path, restored: &[Plane]) -> Result<()> {
        let rows: Vec<[Plane; 3]> = (self.pairs.iter().zip(restored).take(PICTURES))
            .map(|(pair, restored)| {
                let sides = [pair.input.y.min(PICTURE_SIDE), pair.input.x.min(PICTURE_SIDE)];
                let corner = [(pair.input.y - sides[0]) / 2, (pair.input.x - sides[1]) / 2];
                [&pair.input, restored, &pair.target].map(|plane| plane.crop(corner, sides))
            })
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        let panels = rows.iter().enumerate().map(|(number, row)| {
            // One caption a column is enough.
            let captions = if number == 0 { ["degraded", "restored", "reference"] } else { [""; 3] };
            row.iter().zip(captions).map(|(plane, caption)| panel(plane, caption)).collect()
        });
        let panels: Vec<Vec<Panel>> = panels.collect::<Result<_>>()?;
        Ok(montage(&panels.iter().map(Vec::as_slice).collect::<Vec<_>>(), path)?)
    }
}

/// Restores one normalised plane of any size and of this task (an index).
pub fn restore(method: &dyn Method, plane: &Plane, task: usize, device: Device) -> Plane {
    on_plane(plane, method.generator().tile_multiple(), device, |input| method.restore(input, task))
}

/// The target is the reference up to gain and offset, which the protocol takes out; restored and target are on one
/// scale.
fn score(restored: &Plane, pair: &Pair) -> Result<Scores> {
    let (target, sides) = (&pair.target.samples, (pair.target.y, pair.target.x));
    Ok(metrics::evaluate(&restored.samples, target, sides, Scale::Reference, SsimWindow::Uniform)?)
}

/// Shown between its own 0.1 and 99.9 percentile.
fn panel<'a>(plane: &'a Plane, caption: &str) -> Result<Panel<'a>> {
    let percentile = |q| metrics::percentile(&plane.samples, q).map(|value| value as f32);
    let display = (percentile(0.1)?, percentile(99.9)?);
    Ok(Panel { samples: &plane.samples, shape: (plane.y, plane.x), display, caption: caption.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_names_what_was_simulated() {
        let config = |phantoms: f64| {
            let change = format!("simulate.phantoms={phantoms:?}");
            Config::parse(include_str!("../configs/smoke.toml"), &[change]).unwrap()
        };
        let entries: Vec<Entry> = serde_json::from_str(
            r#"[{"reference":"clean/ssi/clean/a.tif","split":"train"},
                {"reference":"clean/hela/clean/a.tif","split":"val"},
                {"reference":"clean/hela/clean/b.tif","split":"val"},
                {"reference":"clean/ht29/clean/a.tif","split":"val"},
                {"reference":"denoise/val/high/a.tif","degraded":"denoise/val/low/a.tif","split":"val"}]"#,
        )
        .unwrap();
        for (pairs, simulated_windows, phantoms, expected) in [
            (0, 32, 0.25, "32 windows of clean/hela, clean/ht29 and phantoms, simulated noise"),
            (0, 32, 0.0, "32 windows of clean/hela and clean/ht29, simulated noise"),
            (0, 1, 1.0, "1 window of phantoms, simulated noise"),
            (4, 0, 0.5, "4 real pairs of denoise/val"),
            (1, 2, 1.0, "1 real pair of denoise/val; 2 windows of phantoms, simulated noise"),
        ] {
            let found = Count { pairs, simulated_windows }.describe(0, &config(phantoms), &entries);
            assert_eq!(found, format!("validation: {expected}"));
        }
    }
}
