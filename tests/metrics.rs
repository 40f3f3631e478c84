//! `mdr::metrics` against what scikit-image finds on stored cases (tests/data/make_metrics.py), and against
//! properties that the formulas promise.

use mdr::Error;
use mdr::metrics::*;
use serde_json::Value;

const TOLERANCE: f64 = 1e-6;

struct Case {
    facts: Value,
    shape: (usize, usize),
    reference: Vec<f32>,
    restored: Vec<f32>,
    degraded: Vec<f32>,
}

fn cases() -> Vec<Case> {
    let cases: Value = serde_json::from_str(include_str!("data/metrics.json")).unwrap();
    let bytes = include_bytes!("data/metrics.bin");
    let samples: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let case = |facts: &Value| {
        let number = |v: &Value| v.as_u64().unwrap() as usize;
        let shape = (number(&facts["shape"][0]), number(&facts["shape"][1]));
        let start = number(&facts["start"]);
        let mut arrays = samples[start..].chunks_exact(shape.0 * shape.1).map(<[f32]>::to_vec);
        let mut array = || arrays.next().unwrap();
        Case { facts: facts.clone(), shape, reference: array(), restored: array(), degraded: array() }
    };
    cases.as_array().unwrap().iter().map(case).collect()
}

#[track_caller]
fn assert_close(found: f64, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= TOLERANCE * expected.abs().max(1.0), "{what}: {found}, expected {expected}");
}

const WINDOWS: [(SsimWindow, &str); 2] = [(SsimWindow::Uniform, "uniform"), (SsimWindow::Gaussian, "gaussian")];

#[test]
fn single_figures_equal_scikit_image() {
    let cases = cases();
    assert!(cases.len() >= 6);
    for case in cases {
        let name = case.facts["name"].as_str().unwrap();
        let (raw, range) = (&case.facts["raw"], case.facts["data_range"].as_f64().unwrap());
        let (reference, restored) = (&case.reference[..], &case.restored[..]);
        assert_close(psnr(reference, restored, range).unwrap(), &raw["psnr"], name);
        assert_close(nrmse(reference, restored).unwrap(), &raw["nrmse"], name);
        for (window, key) in WINDOWS {
            assert_close(ssim(reference, restored, case.shape, range, window).unwrap(), &raw["ssim"][key], name);
        }
        for pair in case.facts["percentiles"].as_array().unwrap() {
            assert_close(percentile(restored, pair[0].as_f64().unwrap()).unwrap(), &pair[1], name);
        }
    }
}

#[test]
fn protocol_equals_scikit_image() {
    for case in cases() {
        let scales = [
            ("as_is", Scale::AsIs),
            ("own", Scale::Own),
            ("input", Scale::Input(&case.degraded[..])),
            ("reference", Scale::Reference),
        ];
        for (mode, scale) in scales {
            for (window, key) in WINDOWS {
                let scores = evaluate(&case.restored, &case.reference, case.shape, scale, window).unwrap();
                let what = format!("{} {mode} {key}", case.facts["name"]);
                let (plain, affine) = (&case.facts["plain"][mode], &case.facts["affine"]);
                assert_close(scores.psnr, &plain["psnr"], &what);
                assert_close(scores.ssim, &plain["ssim"][key], &what);
                assert_close(scores.nrmse, &plain["nrmse"], &what);
                assert_close(scores.psnr_affine, &affine["psnr"], &what);
                assert_close(scores.ssim_affine, &affine["ssim"][key], &what);
                assert_close(scores.nrmse_affine, &affine["nrmse"], &what);
            }
        }
        let (low, high) = (percentile(&case.reference, 0.1).unwrap(), percentile(&case.reference, 99.9).unwrap());
        let unit: Vec<f32> = case.reference.iter().map(|&r| ((f64::from(r) - low) / (high - low)) as f32).collect();
        let affine = affine_match(&case.restored, &unit).unwrap();
        assert_close(affine.gain, &case.facts["gain"], "gain");
        assert_close(affine.offset, &case.facts["offset"], "offset");
    }
}

/// A small repeatable test picture, 0..1.
fn picture(y: usize, x: usize) -> Vec<f64> {
    (0..y * x).map(|i| 0.5 + 0.25 * ((i / x) as f64 * 0.7).sin() + 0.25 * ((i % x) as f64 * 0.9).cos()).collect()
}

/// SSIM as its definition reads: each window on its own.
#[test]
fn ssim_equals_its_definition() {
    let (y, x) = (13, 17);
    let reference = picture(y, x);
    let image: Vec<f64> =
        reference.iter().enumerate().map(|(i, r)| r * 0.8 + (i * 7919 % 101) as f64 / 500.0).collect();
    let (mut sum, mut windows) = (0.0, 0.0);
    for top in 0..=y - 7 {
        for left in 0..=x - 7 {
            let window = |of: &[f64]| -> Vec<f64> { (0..49).map(|k| of[(top + k / 7) * x + left + k % 7]).collect() };
            let (a, b) = (window(&reference), window(&image));
            let mean = |v: &[f64]| v.iter().sum::<f64>() / 49.0;
            let (ma, mb) = (mean(&a), mean(&b));
            let covariance = |u: &[f64], mu: f64, v: &[f64], mv: f64| {
                u.iter().zip(v).map(|(u, v)| (u - mu) * (v - mv)).sum::<f64>() / 48.0
            };
            let (c1, c2) = (1e-4, 9e-4);
            sum += (2.0 * ma * mb + c1) * (2.0 * covariance(&a, ma, &b, mb) + c2)
                / ((ma * ma + mb * mb + c1) * (covariance(&a, ma, &a, ma) + covariance(&b, mb, &b, mb) + c2));
            windows += 1.0;
        }
    }
    let found = ssim(&reference, &image, (y, x), 1.0, SsimWindow::Uniform).unwrap();
    assert!((found - sum / windows).abs() < 1e-12, "{found}, expected {}", sum / windows);
    assert!(found < 0.95, "the images differ");
}

#[test]
fn properties() {
    let shape = (16, 19);
    let reference = picture(16, 19);
    let image: Vec<f64> = reference.iter().enumerate().map(|(i, r)| r + (i % 5) as f64 * 0.03).collect();
    for (window, _) in WINDOWS {
        let forth = ssim(&reference, &image, shape, 1.0, window).unwrap();
        let back = ssim(&image, &reference, shape, 1.0, window).unwrap();
        assert!((forth - back).abs() < 1e-12 && forth < 1.0);
        assert!((ssim(&image, &image, shape, 1.0, window).unwrap() - 1.0).abs() < 1e-12);
    }
    assert_eq!(psnr(&image, &image, 1.0).unwrap(), f64::INFINITY);
    assert_eq!(nrmse(&image, &image).unwrap(), 0.0);
    // An error of 0.1 everywhere is 20 dB below a range of 1.
    let shifted: Vec<f64> = reference.iter().map(|r| r + 0.1).collect();
    assert!((psnr(&reference, &shifted, 1.0).unwrap() - 20.0).abs() < 1e-9);

    // Gain and offset of the restored image change the plain figures, not the affine ones.
    let score = |image: &[f64]| evaluate(image, &reference, shape, Scale::AsIs, SsimWindow::Uniform).unwrap();
    let one = score(&image);
    let other = score(&image.iter().map(|i| 40.0 * i - 7.0).collect::<Vec<_>>());
    assert!((one.psnr_affine - other.psnr_affine).abs() < 1e-9 && (one.ssim_affine - other.ssim_affine).abs() < 1e-9);
    assert!(other.psnr < one.psnr - 10.0);
    assert!(one.psnr_affine >= one.psnr, "the fit is the best gain and offset");
    // The unit of both together changes nothing where the scale comes from the image or the reference.
    let unit = |v: &[f64]| v.iter().map(|s| 1000.0 * s + 90.0).collect::<Vec<_>>();
    for scale in [Scale::Own, Scale::Reference] {
        let a = evaluate(&image, &reference, shape, scale, SsimWindow::Uniform).unwrap();
        let b = evaluate(&unit(&image), &unit(&reference), shape, scale, SsimWindow::Uniform).unwrap();
        assert!((a.psnr - b.psnr).abs() < 1e-9 && (a.ssim - b.ssim).abs() < 1e-9);
    }
    let mean = Scores::mean(&[one, other]).unwrap();
    assert!((mean.psnr - 0.5 * (one.psnr + other.psnr)).abs() < 1e-12);
    assert_eq!(Scores::mean(&[]), None);
}

#[test]
fn bad_planes_give_errors() {
    let good = picture(16, 16);
    let with = |bad: f64| good.iter().enumerate().map(|(i, &g)| if i == 77 { bad } else { g }).collect::<Vec<_>>();
    let run = |restored: &[f64], reference: &[f64], shape| {
        evaluate(restored, reference, shape, Scale::Own, SsimWindow::Uniform).unwrap_err()
    };
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for error in [run(&with(bad), &good, (16, 16)), run(&good, &with(bad), (16, 16))] {
            assert!(matches!(&error, Error::InvalidOption(m) if m.contains("NaN or infinite")), "{error}");
        }
        assert!(psnr(&good, &with(bad), 1.0).is_err() && percentile(&with(bad), 50.0).is_err());
        assert!(evaluate(&good, &good, (16, 16), Scale::Input(&with(bad)), SsimWindow::Uniform).is_err());
        assert!(psnr(&good, &good, bad).is_err());
    }
    let flat = vec![3.0; 256];
    let error = run(&good, &flat, (16, 16));
    assert!(matches!(&error, Error::InvalidOption(m) if m.contains("reference") && m.contains("contrast")), "{error}");
    assert!(nrmse(&vec![0.0; 256], &good).is_err());
    assert!(evaluate(&flat, &good, (16, 16), Scale::Own, SsimWindow::Uniform).is_ok());
    for shape in [(16, 15), (256, 1), (1, 256), (0, 0), (usize::MAX, 2), (usize::MAX, usize::MAX)] {
        assert!(matches!(run(&good, &good, shape), Error::ShapeMismatch { .. }));
    }
    assert!(matches!(run(&good[1..], &good, (16, 16)), Error::ShapeMismatch { .. }));
    assert!(ssim(&good[..100], &good[..100], (10, 10), 1.0, SsimWindow::Uniform).is_ok());
    assert!(ssim(&good[..100], &good[..100], (10, 10), 1.0, SsimWindow::Gaussian).is_err());
    for (q, samples) in [(-0.1, &good[..]), (100.1, &good[..]), (f64::NAN, &good[..]), (50.0, &[])] {
        assert!(percentile(samples, q).is_err());
    }
    assert!(psnr::<f64>(&[], &[], 1.0).is_err() && psnr(&good, &good, 0.0).is_err());
}

/// A 512×512 plane, many of which the trainer scores. The bound is loose: tests run lightly optimised, on any
/// machine.
#[test]
fn ssim_is_fast() {
    let plane = picture(512, 512);
    let start = std::time::Instant::now();
    ssim(&plane, &plane, (512, 512), 1.0, SsimWindow::Uniform).unwrap();
    let elapsed = start.elapsed();
    println!("ssim of 512x512: {elapsed:?}");
    assert!(elapsed.as_secs_f64() < 1.0, "{elapsed:?}");
}
