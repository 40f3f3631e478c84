//! Restored and reference plane → PSNR, SSIM, NRMSE. (stub)
