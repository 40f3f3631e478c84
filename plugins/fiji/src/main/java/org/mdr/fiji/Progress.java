package org.mdr.fiji;

/** Is told how far a restoration is, in the thread that restores, at the start and after every tile. */
public interface Progress {
    /**
     * @param done tiles that are done
     * @param total tiles in all
     * @return whether to go on; {@code false} cancels
     */
    boolean update(long done, long total);
}
