//! Fixtures: a folder of simulated micrographs, and the smoke config with changes.
#![allow(dead_code, reason = "each test file uses its part")]

use mdr::simulate::{Camera, Phantom, phantom};
use mdr::{Image, ImageInfo, PixelType, Shape, tiff_io};
use mdr_train::config::Config;
use std::path::Path;

/// The config of `configs/smoke.toml` with `--set` changes.
pub fn smoke(changes: &[&str]) -> Config {
    // Tests run beside each other: more threads each would wait for one another.
    tch::set_num_threads(1);
    let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
    Config::parse(include_str!("../../configs/smoke.toml"), &changes).expect("the shipped config is right")
}

/// A change of the smoke config to real pairs.
pub const PAIRS_ONLY: &str = "simulate.fraction=0.0";

/// Writes a 16-bit TIFF of `planes` planes, each its own phantom.
pub fn write_phantoms(path: &Path, planes: usize, seed: u64, camera: Option<Camera>) {
    let (y, x) = (80, 96);
    let mut samples = Vec::new();
    for plane in 0..planes as u64 {
        let seed = 100 * seed + plane;
        let clean = phantom(Phantom::ALL[seed as usize % Phantom::ALL.len()], y, x, seed);
        match &camera {
            Some(camera) => samples.extend(camera.capture(&clean.samples, seed).expect("the camera makes sense")),
            None => samples.extend(clean.samples.iter().map(|sample| (sample * 4000.0 + 100.0).round())),
        }
    }
    let info = ImageInfo::new(Shape { t: 1, c: 1, z: planes, y, x }, PixelType::U16);
    std::fs::create_dir_all(path.parent().expect("files lie in folders")).expect("temporary folders can be made");
    let image = Image::new(info, samples).expect("as many samples as the shape says");
    tiff_io::write_tiff(path, &image, false).expect("temporary files can be written");
}

/// `denoise/{low,high}/N.tif` and `denoise/clean/N.tif`, `count` of each, of different phantoms.
pub fn write_data(root: &Path, count: u64) {
    for number in 0..count {
        let camera = Camera { photons: 20.0, ..Camera::default() };
        let name = format!("{number}.tif");
        write_phantoms(&root.join("denoise/low").join(&name), 1, number, Some(camera));
        write_phantoms(&root.join("denoise/high").join(&name), 1, number, None);
        write_phantoms(&root.join("denoise/clean").join(&name), 1, 50 + number, None);
    }
}
