"""Options of a released model that aujax does not have: which of them mean something else than what happens here.

Names are dotted where the authors' file nests: "model.encoder_name". The tables list, by option, the values that
mean what happens here anyway; another value is told.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

Options = Mapping[str, Any]


class Difference(NamedTuple):
    """The values of an option of theirs that mean what happens here, and what happens."""

    same: tuple[Any, ...]
    here: str


class Told(NamedTuple):
    """What differs in reading a picture and in training; options not known here, and options that say nothing."""

    reading: tuple[str, ...]
    training: tuple[str, ...]
    unknown: tuple[str, ...]
    unused: tuple[str, ...]


# What the network computes from a picture.
READING = {
    "model.encoder_weights": Difference(
        ("imagenet", "VGGFace2", "None", None), "pixels are normalised by ImageNet's mean and deviation"
    ),
    "model.scale_in": Difference((1.0,), "pictures are not scaled inside the network"),
    "model.apvit_attn_method": Difference(("SUM_ABS_1",), "attention is the sum of absolute channels (SUM_ABS_1)"),
    "model.apvit_normalize_att": Difference((False,), "attention is not normalised"),
    "model.apvit_apply_self_att": Difference((False,), "features are not multiplied by the attention"),
    "prm_ks": Difference((3,), "peaks are sought in windows of 3 x 3"),
    "prm_st": Difference((1,), "windows of peaks move by 1"),
    "align_atten_to_heatmap_use_self_atten": Difference((False,), "features are not multiplied by the attention"),
    "eval_daug_mask_img_heatmap": Difference((False,), "pictures are not masked"),
    "amp_eval": Difference((False,), "evaluation runs in float32"),
    "task": Difference(("STD_CL",), "the network classifies (STD_CL)"),
}
_NO_SUCH_LOSS = Difference((False,), "there is no such loss")
# What happens in training alone.
TRAINING = {
    "optimizer.opt__name_optimizer": Difference(("sgd",), "the optimiser is SGD"),
    "optimizer.opt__nesterov": Difference((True,), "momentum is Nesterov's"),
    "optimizer.opt__dampening": Difference((0.0,), "momentum is not dampened"),
    "optimizer.opt__lr_classifier_ratio": Difference((1.0,), "all parameters have one learning rate"),
    "optimizer.opt__name_lr_scheduler": Difference(
        ("mystep",), "the rate falls in steps to 1e-07, or at every step along half a cosine to 0"
    ),
    "optimizer.opt__min_lr": Difference((1e-7,), "the rate falls no lower than 1e-07"),
    "ce": Difference((True,), "the loss has a cross-entropy"),
    "ce_lambda": Difference((1.0,), "the cross-entropy has weight 1"),
    "std_cl_w_style": Difference(("cl_w_none",), "expressions have equal weights"),
    "data_weighted_sampler": Difference((False,), "each face comes once per epoch"),
    "curriculum_l": Difference((False,), "all expressions are there from the first epoch"),
    "proxy_training_set": Difference((False,), "all faces train"),
    "train_daug_mask_img_heatmap": Difference((False,), "pictures are not masked"),
    "valid_freq_mb": Difference((-1.0,), "validation is at the end of epochs"),
    "master_selection_metric": Difference(("cl_accuracy",), "the best epoch is that of the highest accuracy"),
    "amp": Difference((False,), "training runs in float32, or as --config.dtype says"),
    "model.spatial_dropout": Difference((0.0,), "the last features are not dropped out"),
    "model.freeze_cl": Difference((False,), "all parameters learn"),
    "dense_dropout": Difference((0.0,), "the head has no dropout"),
    "wc_dropout": Difference((0.0,), "the head has no dropout"),
    "cutmix_beta": Difference((1.0,), "the share that is pasted is uniform"),
    "cutmix_prob": Difference((1.0,), "every batch is mixed"),
    **dict.fromkeys(("aus_seg", "mse", "mae", "mtl_focal", "att_sz", "att_ent_sz"), _NO_SUCH_LOSS),
    **dict.fromkeys(("ortho_lw", "w_sparsity", "sparse_lf", "sparse_lw", "sparse_at"), _NO_SUCH_LOSS),
    **dict.fromkeys(("s_cost_s", "high_entropy", "con_scores", "free_orth_ft", "guid_orth_ft"), _NO_SUCH_LOSS),
    **dict.fromkeys(("oc_mean", "oc_var", "oc_unim_inq", "sl_fc", "crf_fc", "entropy_fc"), _NO_SUCH_LOSS),
    **dict.fromkeys(("max_sizepos_fc", "im_rec"), _NO_SUCH_LOSS),
}
# The same, where the model was trained with AU cues.
ALIGNMENT = {
    "align_atten_to_heatmap_type_heatmap": Difference(
        ("heatmap_action_units_from_landmarks",), "the map is drawn from landmarks and the expression's action units"
    ),
    "align_atten_to_heatmap_normalize": Difference((True,), "the map is stretched to [0, 1]"),
    "align_atten_to_heatmap_align_type": Difference(("avg", "random_avg"), "attention is the mean of all channels"),
    "align_atten_to_heatmap_p": Difference((1.0,), "attention is the mean of all channels"),
    "align_atten_to_heatmap_norm_att": Difference(("norm_none",), "attention is aligned as it is"),
    "align_atten_to_heatmap_loss": Difference(("cosine",), "alignment is 1 - cosine"),
    "align_atten_to_heatmap_elb": Difference((False,), "alignment is 1 - cosine"),
    "align_atten_to_heatmap_scale_to": Difference(("scale_to_attention",), "the map is brought to attention's size"),
    "align_atten_to_heatmap_start_ep": Difference((0,), "alignment begins with the first epoch"),
    "align_atten_to_heatmap_end_ep": Difference((-1,), "alignment ends with the last epoch"),
}
# Names that begin so belong to one method (in the paper's words) and say nothing about the others.
_OWNERS = {
    "wc_": "WILDCAT",
    "acol_": "ACoL",
    "adl_": "ADL",
    "prm_": "PRM",
    "cutmix_": "CutMix",
    "sparse_at": "APViT",
    "model.apvit_": "APViT",
}
# Paths, hosts, times, logs, boxes, what the tensors tell better, and the details of what is off: how names begin.
_SAYS_NOTHING = (
    *("abs_fd_exp", "alpha_visu", "best_epoch", "box_v2_metric", "c_cudaid", "cam_curve_interval", "cudaid"),
    *("data_paths", "data_root", "debug_subfolder", "dense_dims", "dist_backend", "distributed", "ds_chunkable"),
    *("elb_", "eval_checkpoint_type", "exp_id", "fd_exp", "height_tag", "img_range", "init_method"),
    *("iou_threshold_list", "is_master", "is_node_master", "local_", "lse_r", "mask_root", "metadata_root"),
    *("model.apvit_hid_att_dim", "model.arch", "model.do_segmentation", "model.folder_pre_trained_cl"),
    *("model.in_channels", "model.path_pre_trained", "model.strict", "model.support_background"),
    *("multi_contour_eval", "multi_iou_eval", "multi_label_flag", "nbr_buckets", "num_val_sample_per_class"),
    *("num_workers", "outd", "rank", "running_time", "scoremap_paths", "seg_ignore_idx", "seg_mode"),
    *("spatial_pooling", "std_cams_folder", "subpath", "t0", "tend", "verbose", "world_size"),
    *("align_atten_to_heatmap_", "aus_seg_", "mse_", "mae_", "mtl_focal_", "att_sz_", "att_ent_", "ortho_lw_"),
    *("w_sparsity_", "sparse_lf_", "sparse_lw_", "sparse_at_", "s_cost_s_", "high_entropy_", "con_scores_"),
    *("free_orth_ft_", "guid_orth_ft_", "oc_", "sl_", "crf_", "entropy_fc_", "max_sizepos_fc_", "im_rec_", "ce_"),
    *("train_daug_mask_img_heatmap_", "eval_daug_mask_img_heatmap_", "data_weighted_sampler_", "curriculum_l_"),
    *("optimizer.opt__beta", "optimizer.opt__eps_adam", "optimizer.opt__amsgrad", "optimizer.opt__last_epoch"),
)


def tell(options: Options, method: str, mapped: Collection[str], *, with_au: bool) -> Told:
    """Returns what of the options of a released model is not said by those that are `mapped`.

    `method` is the paper's name; options of other methods, and those of alignment where there was none, say nothing.
    """
    training = TRAINING | (ALIGNMENT if with_au else {})
    known = {*mapped, *READING, *TRAINING, *ALIGNMENT}
    rest = [name for name in options if name not in known]
    unused = tuple(name for name in rest if name.startswith((*_SAYS_NOTHING, *_OWNERS)))
    unknown = tuple(name for name in rest if name not in unused)
    return Told(_sentences(options, READING, method), _sentences(options, training, method), unknown, unused)


def _sentences(options: Options, differences: Mapping[str, Difference], method: str) -> tuple[str, ...]:
    told = []
    for name, (same, here) in differences.items():
        owner = next((owner for start, owner in _OWNERS.items() if name.startswith(start)), method)
        if owner == method and name in options and options[name] not in same:
            told.append(f"{name} = {options[name]!r}: here {here}")
    return tuple(told)
