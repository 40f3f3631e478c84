//! The built-in model on real noisy images with a reference: the validation pairs of bench10's denoise task (W2S). They
//! are not in the repository: the folder is `MDR_DATA`, or `../shared/data` beside the checkout, and without it the
//! test says that it is skipped.

use mdr::metrics::{Scale, Scores, SsimWindow, evaluate};
use mdr::simulate::gaussian_blur;
use mdr::tiff_io::read_tiff;
use mdr::{Model, RestoreOptions, Task, restore};
use std::path::PathBuf;

#[test]
fn the_built_in_model_beats_a_tuned_blur_on_real_noise() {
    let data = std::env::var_os("MDR_DATA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    let folder = data.join("bench10/denoise/val");
    if !folder.is_dir() {
        eprintln!("skipped: no images of bench10 (set MDR_DATA to the folder that holds bench10)");
        return;
    }
    let model = Model::builtin(Task::Denoise).expect("a built-in model");
    let (mut degraded, mut blurred, mut restored) = (Vec::new(), Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder.join("low")).expect("low images") {
        let path = entry.expect("an entry").path();
        let low = read_tiff(&path).expect("a low image");
        let high = read_tiff(folder.join("high").join(path.file_name().expect("a name"))).expect("its high image");
        let side = (low.info.shape.y, low.info.shape.x);
        let score = |samples: &[f32]| {
            evaluate(samples, &high.samples, side, Scale::Input(&low.samples), SsimWindow::Uniform).expect("scores")
        };
        degraded.push(score(&low.samples));
        // The sigma that is best on these very images.
        blurred.push(score(&gaussian_blur(&low.samples, side, (2.0, 2.0)).expect("a blur")));
        let result = restore(&model, &low, &RestoreOptions::default(), &mut |_| true).expect("restored");
        restored.push(score(&result.samples));
    }
    let [degraded, blurred, restored] =
        [degraded, blurred, restored].map(|scores| Scores::mean(&scores).expect("at least one image"));
    assert!(restored.psnr_affine > degraded.psnr_affine + 10.0, "{restored:?} from {degraded:?}");
    assert!(restored.psnr_affine > blurred.psnr_affine + 0.8, "{restored:?}, blurred {blurred:?}");
    assert!(restored.ssim_affine > blurred.ssim_affine + 0.05, "{restored:?}, blurred {blurred:?}");
}
