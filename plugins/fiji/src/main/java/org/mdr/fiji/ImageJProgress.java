package org.mdr.fiji;

import ij.IJ;

/** Progress → ImageJ's progress bar and status line with the remaining time; Escape cancels. */
final class ImageJProgress implements Progress {
    private static final long REFRESH_MS = 200;

    private String what;
    private long start;
    private long shown;

    ImageJProgress(String what) {
        next(what);
        IJ.resetEscape();
    }

    /** Begins with another of several images; Escape that was pressed since the last one counts. */
    void next(String what) {
        this.what = what;
        start = System.currentTimeMillis();
    }

    @Override
    public boolean update(long done, long total) {
        long now = System.currentTimeMillis();
        if (now - shown >= REFRESH_MS || done == total) {
            shown = now;
            double part = total == 0 ? 0 : (double) done / total;
            IJ.showProgress(part);
            String left = done == 0 ? "" : ", " + seconds((now - start) * (total - done) / done / 1000) + " left";
            IJ.showStatus(what + ": " + (int) (100 * part) + " %" + left + " (Esc cancels)");
        }
        return !IJ.escapePressed() && !Thread.currentThread().isInterrupted();
    }

    private static String seconds(long seconds) {
        return String.format("%d:%02d", seconds / 60, seconds % 60);
    }
}
