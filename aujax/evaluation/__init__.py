"""Runs a trained network over a split: predictions, maps and their agreement with AU maps, occlusion, sanity checks.

evaluate      forward pass, comparison with AU maps, and the files of an evaluation
collect       maps of all faces, and the images that a report shows
faithfulness  what happens when parts of the face are occluded, and sanity checks of the maps: their similarity when
              weights are randomised or the image changes slightly (`aujax eval --faithfulness`)
"""
