package org.mdr.fiji;

/** Is told how far a restoration is, in the thread that restores: at the start, after every tile, every 50 ms between. */
public interface Progress {
    /**
     * @param done what is done, in hundredths of a tile
     * @param total what there is in all
     * @return whether to go on; {@code false} cancels
     */
    boolean update(long done, long total);
}
