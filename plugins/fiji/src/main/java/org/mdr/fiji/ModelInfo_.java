package org.mdr.fiji;

import ij.plugin.PlugIn;

/** Plugins ▸ Restore ▸ Model Info…: what a model is, into the log. */
public class ModelInfo_ implements PlugIn {
    @Override
    public void run(String arg) {}
}
