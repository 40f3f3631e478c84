package org.mdr.fiji;

/** Takes an image plane by plane. */
public interface PlaneSink {
    /**
     * Takes the pixels of a plane, row by row.
     *
     * @param t time point, from 0
     * @param c channel, from 0
     * @param z position in the stack, from 0
     * @param pixels byte[], short[] (both unsigned) or float[]; the sink may keep them
     */
    void write(int t, int c, int z, Object pixels);
}
