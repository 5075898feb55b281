"""The model. Where each symbol of the paper lives:

========  =====================================================  ============================================
======== symbol    meaning                                                where
         equation ========  =====================================================
         ============================================  ========
T         frames of a video that the model sees                  ModelConfig.frames
sec. 3.1 K         classes                                                len(FlowCLIP.class_texts)
         Eq. 3 D         width of the space that images and texts share         Backbone.width
I         frame features (B,T,D)                                 Backbone.encode_frames, out["frames"]
sec. 3.1 s         largest distance between the frames of a difference    ModelConfig.step
         Eq. 4 S(I)      frame differences (B,L,D)                              motion.differences,
         out["differences"]        Eq. 4
L         how many differences: sum of T-d over d = 1..s         ModelConfig.differences
Eq. 5 T_m, T_s  transformer block of the motion, the spatial stream    motion.Stream
      Eq. 5 M         tokens of the motion stream (B,L,D)                    out["motion_tokens"]
                  Eq. 5
S         tokens of the spatial stream (B,T,D)                   out["spatial_tokens"]
Eq. 5 V         video (B,D)                                            motion.MotionModelingBlock,
out["video"]      Eq. 6 H         prompt vectors
ModelConfig.prompt_length                     Eq. 7 P         prompt vectors (B,H,W), shifted by mean(M)
      prompts.MotionAwarePrompts, out["prompts"]    Eq. 7 T         class texts (B,K,D), where it stands
      beside V          prompt_tree.PromptTree, out["texts"]          Eq. 2
V', T'    both after the communication block                     communication.CommunicationBlock
Eq. 2
                                                                 out["video_out"], out["texts_out"]
tau       temperature                                            ModelConfig.tau
Eq. 3
p         class scores: softmax of out["logits"]                 FlowCLIP.forward
Eq. 3 ========  =====================================================
============================================  ========
"""
