"""The model. Where each symbol of the paper lives:

symbol    meaning                                              where                               paper
--------  ---------------------------------------------------  ----------------------------------  --------
T         frames of a video that the model sees                ModelConfig.frames                  sec. 3.1
K         classes                                              len(FlowCLIP.class_texts)           Eq. 3
D         width of the space that images and texts share       Backbone.width
I         frame features (B,T,D)                               out["frames"]                       sec. 3.1
s         largest distance between the frames of a difference  ModelConfig.step                    Eq. 4
S(I)      frame differences (B,L,D)                            motion.differences                  Eq. 4
L         number of differences, sum of T-d over d = 1..s      ModelConfig.differences             Eq. 5
T_m, T_s  transformer block of the motion, spatial stream      motion.Stream                       Eq. 5
M, S      tokens of the two streams (B,L,D), (B,T,D)           motion.MotionModelingBlock          Eq. 5
V         video (B,D)                                          out["video"]                        Eq. 6
H         number of prompt vectors                             ModelConfig.prompt_length           Eq. 7
P         prompt vectors (B,H,W), shifted by mean(M)           prompts.MotionAwarePrompts          Eq. 7
T         class texts (B,K,D), where it stands beside V        prompt_tree.PromptTree              Eq. 2
V', T'    both after the communication block                   communication.CommunicationBlock    Eq. 2
tau       temperature                                          ModelConfig.tau                     Eq. 3
p         class scores, softmax of out["logits"]               FlowCLIP.forward                    Eq. 3
"""
