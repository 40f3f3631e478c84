package org.mdr.fiji;

/** An image that is read plane by plane, any plane as often as needed. */
public interface PlaneSource {
    /**
     * The pixels of a plane, row by row: byte[], short[] (both unsigned) or float[]; all planes of one type. Not kept.
     *
     * @param t time point, from 0
     * @param c channel, from 0
     * @param z position in the stack, from 0
     */
    Object read(int t, int c, int z);
}
