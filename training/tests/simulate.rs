//! Pairs from clean images and phantoms: grids, calibration, intensities, repetition, and what is refused.

mod common;

use mdr::simulate::{Camera, gaussian_blur};
use mdr::{Image, ImageInfo, PixelType, Shape, metrics, tiff_io};
use mdr_train::simulate::{Config, simulate};
use std::path::Path;

const GO_ON: &dyn Fn() -> bool = &|| false;

fn run(config: &str, data: Option<&Path>, phantoms: usize, out: &Path) -> anyhow::Result<serde_json::Value> {
    let manifest = simulate(&Config::parse(config)?, data, phantoms, out, None, GO_ON)?;
    Ok(serde_json::from_str(&std::fs::read_to_string(manifest)?)?)
}

fn pair(folder: &Path, name: &str) -> (Image, Image) {
    let read = |role: &str| tiff_io::read_tiff(folder.join(role).join(name)).unwrap();
    (read("low"), read("high"))
}

fn refusal(config: &str, data: Option<&Path>, phantoms: usize) -> String {
    let out = tempfile::tempdir().unwrap();
    let error = run(config, data, phantoms, out.path()).expect_err(config);
    assert!(!out.path().join("denoise/simulated").exists());
    format!("{error:#}")
}

/// A stack of single bright voxels, with its calibration.
fn write_points(path: &Path, z: usize) {
    let mut info = ImageInfo::new(Shape { z, ..Shape::plane(32, 36) }, PixelType::U16);
    (info.pixel_size_um, info.z_step_um) = (Some(0.1), Some(0.2));
    let samples = (0..z * 32 * 36).map(|i| if i % 397 == 200 { 1000.0 } else { 0.0 }).collect();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    tiff_io::write_tiff(path, &Image::new(info, samples).unwrap(), false).unwrap();
}

#[test]
fn shipped_configs_make_pairs_without_any_image() {
    for (task, config) in [
        ("denoise", include_str!("../configs/simulate-denoise.toml")),
        ("axial", include_str!("../configs/simulate-axial.toml")),
        ("super-resolve", include_str!("../configs/simulate-super-resolve.toml")),
    ] {
        let out = tempfile::tempdir().unwrap();
        let manifest = run(config, None, 2, out.path()).unwrap();
        assert_eq!(manifest["pairs"].as_array().unwrap().len(), 2);
        for name in ["phantom_0000.tif", "phantom_0001.tif"] {
            let (low, high) = pair(&out.path().join(task).join("simulated"), name);
            assert_eq!(low.info.shape, high.info.shape, "{task}: one grid");
            assert_eq!(low.info.pixel_size_um, high.info.pixel_size_um);
            // They show the same, and are not the same.
            let fitted = metrics::affine_match(&low.samples, &high.samples).unwrap();
            assert!(fitted.gain > 0.0 && low.samples != high.samples, "{task}");
        }
        // The same seed gives the same files, another one others.
        let again = tempfile::tempdir().unwrap();
        assert_eq!(run(config, None, 2, again.path()).unwrap(), manifest);
        let (first, second) = (
            pair(&out.path().join(task).join("simulated"), "phantom_0001.tif"),
            pair(&again.path().join(task).join("simulated"), "phantom_0001.tif"),
        );
        assert_eq!(first, second);
        let other = tempfile::tempdir().unwrap();
        simulate(&Config::parse(config).unwrap(), None, 2, other.path(), Some(77), GO_ON).unwrap();
        assert_ne!(pair(&other.path().join(task).join("simulated"), "phantom_0001.tif").0, first.0);
    }
}

/// Without noise, low and high are what the camera expects of the blurred and of the clean plane.
#[test]
fn intensities_are_those_of_the_camera() {
    let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    common::write_phantoms(&data.path().join("clean/a.tif"), 1, 3, None);
    let config = "task = \"super-resolve\"\nnoise = false\ndtype = \"float32\"\npercentiles = [0.0, 100.0]\n\
                  psf = { model = \"gaussian-px\", sigma_px = 2.0 }\nhaze = { share = 0.5, sigma_px = 9.0 }\n\
                  camera = { photons = 50.0, background = 4.0, gain = 3.0, offset = 70.0 }";
    run(config, Some(data.path()), 0, out.path()).unwrap();
    let (low, high) = pair(&out.path().join("super-resolve/simulated"), "a.tif");
    let clean = tiff_io::read_tiff(data.path().join("clean/a.tif")).unwrap();
    let range = |q| metrics::percentile(&clean.samples, q).unwrap();
    let (bottom, top) = (range(0.0), range(100.0));
    let unit: Vec<f32> = clean.samples.iter().map(|&s| ((f64::from(s) - bottom) / (top - bottom)) as f32).collect();
    let shape = (clean.info.shape.y, clean.info.shape.x);
    let (sharp, wide) = (gaussian_blur(&unit, shape, (2.0, 2.0)), gaussian_blur(&unit, shape, (9.0, 9.0)));
    let seen: Vec<f32> = sharp.unwrap().iter().zip(wide.unwrap()).map(|(s, w)| s + 0.5 * w).collect();
    let camera = Camera { photons: 50.0, background: 4.0, gain: 3.0, offset: 70.0, ..Camera::default() };
    for (found, expected) in [(low, camera.expected(&seen).unwrap()), (high, camera.expected(&unit).unwrap())] {
        for (found, expected) in found.samples.iter().zip(expected) {
            assert!((found - expected).abs() < 0.01, "{found}, not {expected}");
        }
    }
}

#[test]
fn coarse_grids_have_their_calibration() {
    let data = tempfile::tempdir().unwrap();
    write_points(&data.path().join("set/val/stack/a.tif"), 9);
    let axial = "task = \"axial\"\npsf = { model = \"gaussian\", sigma_um = 0.1, sigma_z_um = 0.3 }\n";
    for (table, low_z, step) in [
        ("subsample = 3, interpolate = false", 3, 0.6),
        ("subsample = 4, interpolate = false", 3, 0.8),
        ("subsample = 4, method = \"bin\", interpolate = false", 2, 0.8),
        ("subsample = 3", 9, 0.2),
    ] {
        let out = tempfile::tempdir().unwrap();
        run(&format!("{axial}axial = {{ {table} }}"), Some(data.path()), 0, out.path()).unwrap();
        let (low, high) = pair(&out.path().join("axial/simulated/val"), "set_a.tif");
        let sizes = |image: &Image| (image.info.shape.z, image.info.pixel_size_um, image.info.z_step_um.unwrap());
        assert_eq!(sizes(&high), (9, Some(0.1), 0.2));
        let (z, pixel, found) = sizes(&low);
        assert!((z, pixel) == (low_z, Some(0.1)) && (found - step).abs() < 1e-9, "{table}: {z} planes, {found} µm");
    }
    // XZ slices: rows are Z, pages Y.
    let out = tempfile::tempdir().unwrap();
    run(&format!("{axial}axial = {{ subsample = 2, slices = true }}"), Some(data.path()), 0, out.path()).unwrap();
    let (low, high) = pair(&out.path().join("axial/simulated/val"), "set_a.tif");
    assert_eq!((high.info.shape.z, high.info.shape.y, high.info.shape.x), (32, 9, 36));
    assert_eq!(
        (high.info.shape, high.info.pixel_size_y_um, high.info.z_step_um),
        (low.info.shape, Some(0.2), Some(0.1))
    );
    let stack = tiff_io::read_tiff(data.path().join("set/val/stack/a.tif")).unwrap();
    let bright = |image: &Image| image.samples.iter().filter(|&&s| s > 200.0).count();
    assert!(bright(&high) == bright(&stack) && bright(&stack) > 20);

    for (table, sides, pixel) in [("binning = 3", (10, 12), 0.3), ("binning = 3, same_grid = true", (30, 36), 0.1)] {
        let out = tempfile::tempdir().unwrap();
        let config = format!(
            "task = \"super-resolve\"\npsf = {{ model = \"widefield\", na = 1.2, emission_nm = 520, refractive_index = 1.33 }}\nlateral = {{ {table} }}"
        );
        run(&config, Some(data.path()), 0, out.path()).unwrap();
        let (low, high) = pair(&out.path().join("super-resolve/simulated/val"), "set_a.tif");
        assert_eq!((high.info.shape.y, high.info.shape.x, high.info.pixel_size_um), (30, 36, Some(0.1)));
        assert_eq!((low.info.shape.y, low.info.shape.x), sides);
        assert!((low.info.pixel_size_um.unwrap() - pixel).abs() < 1e-9 && low.info.shape.z == 9);
    }
}

/// Y plays the part of Z: light spreads along it and not along X.
#[test]
fn planes_are_degraded_along_y() {
    let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_points(&data.path().join("a.tif"), 1);
    let config = "task = \"axial\"\nfrom = \"planes\"\nnoise = false\ndtype = \"float32\"\npercentiles = [0, 100]\n\
                  psf = { model = \"gaussian-px\", sigma_px = 0.3, sigma_z_px = 2 }\naxial = { subsample = 2 }";
    run(config, Some(data.path()), 0, out.path()).unwrap();
    let (low, high) = pair(&out.path().join("axial/simulated"), "a.tif");
    assert_eq!(low.info.shape, high.info.shape);
    // The bright pixels are 200, 597, 994: rows 5, 16, 27.
    let above = |offset: isize| low.samples[(597 + offset) as usize] - 110.0;
    assert!(above(36) > 10.0 && above(-72) > 10.0 && above(1) < 0.05 * above(36), "{} {}", above(36), above(1));
}

#[test]
fn what_cannot_be_done_is_said() {
    let data = tempfile::tempdir().unwrap();
    let empty = Some(data.path());
    let denoise = "task = \"denoise\"";
    assert!(refusal(denoise, empty, 0).contains("--phantoms"));
    assert!(refusal(denoise, Some(Path::new("missing")), 0).contains("no such folder"));
    assert!(refusal(denoise, None, 0).contains("nothing to simulate from"));
    for (config, expected) in [
        ("task = \"denoise\"\npfs = 1", "unknown field `pfs`"),
        ("task = \"denoise\"\ncamera = { photon = 1 }", "unknown field `photon`"),
        ("task = \"denoise\"\ncamera = { photons = [1, -1] }", "low <= high"),
        ("task = \"denoise\"\ncamera = { photons = [-1, 1] }", "photons must be 0 or more"),
        ("task = \"denoise\"\nseed = -1", "seed"),
        ("task = \"denoise\"\nnoise = false", "noise = true"),
        ("task = \"axial\"", "[axial]"),
        ("task = \"super-resolve\"", "[psf]"),
        ("task = \"denoise\"\nlateral = { binning = 2 }", "belongs to task super-resolve"),
        ("task = \"denoise\"\npercentiles = [5, 5]", "percentiles"),
        ("task = \"denoise\"\ncamera = { gain = 1e6 }", "dtype = \"float32\""),
        (
            "task = \"denoise\"\npsf = { model = \"widefield\", na = 1.4, emission_nm = 520, refractive_index = 1.33 }",
            "na = 1.4",
        ),
    ] {
        let message = refusal(config, None, 1);
        assert!(message.contains(expected), "{config}: {message}");
    }
    common::write_phantoms(&data.path().join("clean/a.tif"), 1, 3, None);
    for (config, expected) in [
        ("task = \"axial\"\naxial = { subsample = 4 }", "from = \"planes\""),
        ("task = \"denoise\"\npsf = { model = \"gaussian\", sigma_um = 0.2 }", "pixel size is not known"),
    ] {
        let message = refusal(config, empty, 0);
        assert!(message.contains(expected) && message.contains("a.tif"), "{config}: {message}");
    }
    // An existing result is not touched.
    let out = tempfile::tempdir().unwrap();
    run(denoise, empty, 0, out.path()).unwrap();
    assert!(run(denoise, empty, 0, out.path()).unwrap_err().to_string().contains("exists"));
}
