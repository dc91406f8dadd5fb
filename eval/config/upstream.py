"""Flags and keys of other evaluation scripts, and what stands for them here."""

from __future__ import annotations

_ANSWERS = {
    "--ckpt PATH, or --ckpt 'DIR/*' for all in a folder": """
        checkpoint checkpoints ckpt_path ckpt_dir checkpoint_path checkpoint_dir pretrained_path
        pretrained_checkpoint model_path policy_path policy_ckpt_path evaluate_from_checkpoint
        train_folder last_k_checkpoints weights resume_from_checkpoint load_path model_dir""",
    "--ckpt file.py:Class, a class with reset() and step(obs, goal)": "custom_model custom_policy",
    "--ckpt ws://HOST:PORT, the address of a policy server (docs/servers.md)": """
        host port server_ip server_port policy_host policy_port server_url url connection_info""",
    "--split NAME, what the policy was trained on; no data set is needed, and the official pack of "
    "scenes is --assets official (data sets: calvin-eval dataset check DIR)": """
        dataset_path dataset_dir dataset calvin_dataset calvin_dataset_path data_dir data_path
        root_data_dir calvin_root calvin_path calvin_config_path calvin_conf_path dataset_root""",
    "--num-chains N": """
        num_sequences num_seq num_sequence num_trials num_eval_sequences num_episodes n_episodes
        num_rollouts num_eval_episodes n_eval_episodes""",
    "--chains FIRST-LAST, such as --chains 0-499; of several machines, --shard I/N": """
        eval_start eval_end start_idx end_idx start_index end_index chain_ids sequence_ids""",
    "protocol.steps=N, environment steps per subtask": """
        ep_len episode_length episode_len max_steps max_step max_episode_steps rollout_steps
        max_env_steps ep_length""",
    "protocol.execute=N, actions executed of a chunk": """
        replan_steps action_chunk action_chunk_size exec_horizon execute_step execute_steps
        n_action_steps execution_horizon action_horizon open_loop_horizon num_open_loop_steps""",
    "--devices cuda:0, or cuda:0,cuda:1 for a policy on each": """
        device gpu gpus gpu_id gpu_ids cuda""",
    "--workers N": "num_workers num_procs n_workers num_envs n_envs num_processes n_proc",
    "--max-batch N, requests in one call of the policy": "batch_size eval_batch_size",
    "--out FOLDER": """
        eval_log_dir log_dir output_dir save_dir out_dir output_path eval_dir results_dir
        eval_result_path exp_dir logdir local_log_dir""",
    "protocol.chains=FILE": "eval_sequences_path eval_sequences sequences_path eval_sequences_file",
    "protocol.instructions=FILE": """
        diverse_inst lang_annotation_cache annotation_path annotations_path val_annotations
        enrich_lang custom_lang_embeddings lang_annotations_path enrich_annotation""",
    "protocol.world_reset=subtask": "reset_env reset",
    "--video WHICH: all, failures, successes, or the first N": """
        num_videos num_save_videos record record_video save_video save_videos debug visualize
        num_video rollout_video""",
    "policy.arguments=FILE for a class, policy.options.config=FILE for RoboVLMs": """
        config_path config_file cfg cfg_path model_config config_name""",
    "policy.observe.images.size=N": "resize_size image_size img_size obs_size",
    "policy.options.NAME=VALUE, an argument of the policy's class": """
        unnorm_key window_size precision fp16 bf16 amp num_steps num_inference_steps""",
    "no option: nothing opens a window": "show_gui headless gui render_gui",
    "one command for several processes, see docs/clusters.md": """
        local_rank world_size nproc_per_node dist_url no_nccl num_gpus horovod""",
}

ANSWERS = {name: answer for answer, names in _ANSWERS.items() for name in names.split()}
"""From a flag or key without dashes, in the spelling with underscores, to what stands for it."""


def answer(name: str) -> str | None:
    """What stands for a flag or key of another script; None if it is none that is known.

    Args:
        name: as the user wrote it, such as `--ep_len`, `--ep-len` or `protocol.ep_len`.
    """
    plain = name.lstrip("-").rpartition(".")[2].replace("-", "_").lower()
    return ANSWERS.get(plain)
